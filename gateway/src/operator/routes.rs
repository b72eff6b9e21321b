//! The operator's paths in one table: what stands there, by which methods, and which addresses serve it. A
//! further page is one more row here and one more arm of
//! [`OperatorPages::render`](crate::OperatorPages::render).

/// A page that shows the state of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The process works; in mode private, the time and the uptime as well.
    Alive,
    /// The process serves.
    Health,
    /// Every number of the process.
    Metrics,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// A page.
    Page(Page),
    /// Profiles on demand, where the configuration allows them.
    Profile,
    /// The admin API; its handler knows the paths.
    Admin,
}

/// The methods of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Methods {
    /// GET and HEAD.
    GetHead,
    /// GET only.
    Get,
}

impl Methods {
    /// The value of the header `Allow`.
    #[must_use]
    pub fn allow(self) -> &'static str {
        match self {
            Self::GetHead => "GET, HEAD",
            Self::Get => "GET",
        }
    }
}

/// Which paths a row is for. Slashes at the beginning of an exact path count as one.
#[derive(Clone, Copy, Debug)]
enum PathPattern {
    Exact(&'static [u8]),
    /// All paths that begin with this.
    Below(&'static [u8]),
    /// Every path that no earlier row is for.
    AnythingElse,
}

/// Whether the addresses of the gateway serve a path. Those of the operator serve all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnGateway {
    Always,
    /// Only where the operator has no addresses.
    WithoutOperatorListeners,
    Never,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
struct OperatorRoute {
    pattern: PathPattern,
    target: RouteTarget,
    methods: Methods,
    open_gateway: OnGateway,
    private_gateway: OnGateway,
}

/// The table (`rules/operations.md#pages`).
const ROUTES: [OperatorRoute; 5] = [
    OperatorRoute {
        pattern: PathPattern::Exact(b"/alive"),
        target: RouteTarget::Page(Page::Alive),
        methods: Methods::GetHead,
        open_gateway: OnGateway::Always,
        private_gateway: OnGateway::Always,
    },
    OperatorRoute {
        pattern: PathPattern::Exact(b"/health"),
        target: RouteTarget::Page(Page::Health),
        methods: Methods::GetHead,
        open_gateway: OnGateway::WithoutOperatorListeners,
        private_gateway: OnGateway::Never,
    },
    OperatorRoute {
        pattern: PathPattern::Exact(b"/metrics"),
        target: RouteTarget::Page(Page::Metrics),
        methods: Methods::GetHead,
        open_gateway: OnGateway::WithoutOperatorListeners,
        private_gateway: OnGateway::WithoutOperatorListeners,
    },
    OperatorRoute {
        pattern: PathPattern::Below(b"/debug/pprof/"),
        target: RouteTarget::Profile,
        methods: Methods::Get,
        open_gateway: OnGateway::Never,
        private_gateway: OnGateway::Never,
    },
    OperatorRoute {
        pattern: PathPattern::AnythingElse,
        target: RouteTarget::Admin,
        methods: Methods::Get,
        open_gateway: OnGateway::Never,
        private_gateway: OnGateway::Never,
    },
];

/// The table of the operator's paths.
#[derive(Clone, Copy, Debug)]
pub struct Routes;

impl Routes {
    /// What stands at `path` on an address of the operator, by which methods, and the part of the path that
    /// the target reads itself.
    #[must_use]
    pub fn find_on_operator_listener(path: &[u8]) -> (RouteTarget, Methods, &[u8]) {
        let found = ROUTES.iter().find_map(|route| Some((route, route.rest_of(path)?)));
        found.map_or((RouteTarget::Admin, Methods::Get, path), |(route, rest)| {
            (route.target, route.methods, rest)
        })
    }

    /// The page at `path` on the gateway in the open modes.
    #[must_use]
    pub fn find_on_open_gateway(path: &[u8]) -> Option<Page> {
        let mut here = ROUTES.iter().filter(|route| route.open_gateway != OnGateway::Never);
        here.find(|route| route.rest_of(path).is_some())?.page()
    }

    /// The page on the gateway in mode private whose path is a slash and `leaf`.
    #[must_use]
    pub fn find_on_private_gateway(leaf: &[u8]) -> Option<Page> {
        let mut here = ROUTES.iter().filter(|route| route.private_gateway != OnGateway::Never);
        let is_leaf = |pattern| matches!(pattern, PathPattern::Exact([b'/', name @ ..]) if name == leaf);
        here.find(|route| is_leaf(route.pattern))?.page()
    }

    /// Whether the gateway serves `page` even where the operator has addresses.
    #[must_use]
    pub fn is_always_on_gateway(page: Page) -> bool {
        let row = ROUTES.iter().find(|route| route.page() == Some(page));
        row.is_some_and(|route| route.open_gateway == OnGateway::Always)
    }

    /// The methods by which any address serves `path`.
    #[must_use]
    pub fn methods(path: &[u8]) -> Methods {
        Self::find_on_operator_listener(path).1
    }
}

impl OperatorRoute {
    /// What stands behind the pattern; `None` if the row is not for `path`.
    fn rest_of<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        match self.pattern {
            PathPattern::Exact(pattern) => (collapse_leading_slashes(path) == pattern).then_some(&[]),
            PathPattern::Below(pattern) => path.strip_prefix(pattern),
            PathPattern::AnythingElse => Some(path),
        }
    }

    fn page(&self) -> Option<Page> {
        match self.target {
            RouteTarget::Page(page) => Some(page),
            RouteTarget::Profile | RouteTarget::Admin => None,
        }
    }
}

/// The same path, beginning with one slash where it began with several.
pub(crate) fn collapse_leading_slashes(path: &[u8]) -> &[u8] {
    let slashes = path.iter().take_while(|&&octet| octet == b'/').count();
    path.get(slashes.saturating_sub(1)..).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_one_row_and_each_gateway_its_pages() {
        for (path, target, open, private) in [
            (&b"/alive"[..], RouteTarget::Page(Page::Alive), Some(Page::Alive), Some(Page::Alive)),
            (b"/health", RouteTarget::Page(Page::Health), Some(Page::Health), None),
            (b"/metrics", RouteTarget::Page(Page::Metrics), Some(Page::Metrics), Some(Page::Metrics)),
            (b"/debug/pprof/profile", RouteTarget::Profile, None, None),
            (b"/token/users", RouteTarget::Admin, None, None),
            (b"/Alive", RouteTarget::Admin, None, None),
            (b"/alive/", RouteTarget::Admin, None, None),
            (b"", RouteTarget::Admin, None, None),
        ] {
            let name = path.escape_ascii();
            assert_eq!(Routes::find_on_operator_listener(path).0, target, "{name}");
            assert_eq!(Routes::find_on_open_gateway(path), open, "{name}");
            let leaf = path.strip_prefix(b"/").unwrap_or_default();
            assert_eq!(Routes::find_on_private_gateway(leaf), private, "{name}");
        }
        assert_eq!(Routes::find_on_open_gateway(b"///health"), Some(Page::Health));
        assert_eq!(Routes::find_on_operator_listener(b"/debug/pprof/profile").2, b"profile");
    }

    #[test]
    fn only_pages_may_be_asked_for_by_head() {
        let allow =
            [&b"/alive"[..], b"//metrics", b"/debug/pprof/", b"/x"].map(|path| Routes::methods(path).allow());
        assert_eq!(allow, ["GET, HEAD", "GET, HEAD", "GET", "GET"]);
    }

    #[test]
    fn where_the_operator_has_addresses_the_gateway_keeps_alive_only() {
        let kept = [Page::Alive, Page::Health, Page::Metrics].map(Routes::is_always_on_gateway);
        assert_eq!(kept, [true, false, false]);
    }
}
