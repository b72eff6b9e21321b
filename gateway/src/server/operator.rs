//! Answers to requests for the operator's pages, profiles and the admin API.

use hayate_state::query::split_target;
use hyper::body::Incoming;
use hyper::{Method, Request};

use super::head::with_head;
use super::shared::Shared;
use crate::engine::client_address::Source;
use crate::engine::message::{Response, check_head, origin_form};
use crate::operator::profile;
use crate::operator::routes::{Methods, Page, RouteTarget, Routes};

impl Shared {
    pub(super) async fn answer_operator(&self, source: Source, request: &Request<Incoming>) -> Response {
        let (path, query) = {
            let target = with_head(request, source, |head| {
                check_head(head)?;
                let (path, query) = split_target(origin_form(head.target));
                Ok((path.to_vec(), query.to_vec()))
            });
            match target {
                Ok(target) => target,
                Err(response) => return self.metrics.count_response(response),
            }
        };
        let (target, methods, rest) = Routes::find_on_operator_listener(&path);
        if methods == Methods::Get && request.method() != Method::GET {
            return self.metrics.count_response(Response::method_not_allowed());
        }
        match target {
            RouteTarget::Page(page) => return self.show_page(page),
            RouteTarget::Profile if self.engine.borrow().config().pprof => {
                let leaf = rest.to_vec();
                // It sleeps for as long as the query asks for.
                let page = tokio::task::spawn_blocking(move || profile::render_page(&leaf, &query)).await;
                let failed = |_| Response::text(500, "internal server error\n");
                return self.metrics.count_response(page.unwrap_or_else(failed));
            }
            RouteTarget::Profile | RouteTarget::Admin => {}
        }
        let Some(admin) = self.pages.admin.clone() else {
            return self.metrics.count_response(Response::not_found());
        };
        let from = match source {
            Source::Address(address) => address.to_string(),
            Source::Unix => "a unix socket".to_owned(),
        };
        // It waits for the database, which this thread must not do.
        let answer = tokio::task::spawn_blocking(move || admin.answer(&path, &query, &from)).await;
        self.metrics.count_response(match answer {
            Ok(Some((status, text))) => Response::owned_text(status, text),
            Ok(None) => Response::not_found(),
            Err(_) => Response::text(500, "internal server error\n"),
        })
    }

    pub(super) fn show_page(&self, page: Page) -> Response {
        let engine = self.engine.borrow();
        let config = engine.config();
        if page == Page::Metrics && !config.enable_metrics {
            return self.metrics.count_response(engine.not_found_response());
        }
        let prefix = config.enable_metrics.then_some(config.metrics_prefix.as_str());
        self.metrics.count_response(self.pages.render(page, engine.rules(), prefix))
    }
}
