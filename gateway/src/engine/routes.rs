//! Which path is an announce, which a scrape: literal segments, `:name` for one segment, a last `*name` for
//! the rest.
//!
//! The most exact route wins: segment by segment, a literal before `:name` before `*name`. Paths are compared
//! percent-decoded and case-sensitively; nothing is redirected.

use crate::wire::query::Escaped;

/// What a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// An announce (BEP 3).
    Announce,
    /// A scrape (BEP 48).
    Scrape,
}

/// A route that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// It does not start with `/`.
    #[error("route {0:?} does not start with \"/\"")]
    NoSlash(String),
    /// `*name` stands before the end.
    #[error("route {0:?} continues after its \"*\" segment")]
    RestNotLast(String),
    /// `:` or `*` without a name.
    #[error("route {0:?} has a captured segment without a name")]
    NoName(String),
    /// The same name twice.
    #[error("route {0:?} captures {1:?} twice")]
    NameTwice(String, String),
    /// Two routes match exactly the same paths.
    #[error("routes {0:?} and {1:?} match the same paths")]
    Duplicate(String, String),
}

/// All routes of the gateway.
#[derive(Clone, Debug, Default)]
pub struct TrackerRoutes {
    /// The most exact route first.
    routes: Vec<Route>,
}

#[derive(Clone, Debug)]
struct Route {
    pattern: String,
    segments: Vec<Segment>,
    action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    One(String),
    Rest(String),
}

/// A path's route, and what the path holds for it.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteMatch<'r> {
    /// What the route leads to.
    pub action: Action,
    /// Whether every segment of the route is literal.
    pub literal: bool,
    /// The captured segments, percent-decoded, with their names in the route.
    pub captures: Vec<(&'r str, Vec<u8>)>,
}

impl RouteMatch<'_> {
    /// Returns the percent-decoded octets captured as `name`.
    #[must_use]
    pub fn capture(&self, name: &str) -> Option<&[u8]> {
        self.captures.iter().find(|(known, _)| *known == name).map(|(_, octets)| octets.as_slice())
    }
}

impl TrackerRoutes {
    /// Reads the routes of announces and of scrapes.
    ///
    /// # Errors
    /// Fails when a route cannot be served; the error names the first one.
    pub fn new(announce: &[String], scrape: &[String]) -> Result<Self, RouteError> {
        let announces = announce.iter().map(|pattern| (pattern, Action::Announce));
        let scrapes = scrape.iter().map(|pattern| (pattern, Action::Scrape));
        let mut routes = announces
            .chain(scrapes)
            .map(|(pattern, action)| Route::new(pattern, action))
            .collect::<Result<Vec<_>, _>>()?;
        for (at, route) in routes.iter().enumerate() {
            if let Some(earlier) = routes.iter().take(at).find(|earlier| earlier.shape() == route.shape()) {
                return Err(RouteError::Duplicate(earlier.pattern.clone(), route.pattern.clone()));
            }
        }
        routes.sort_by_cached_key(Route::shape);
        Ok(Self { routes })
    }

    /// Returns the most exact route that matches `path`, which starts with `/`.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<RouteMatch<'_>> {
        let path = path.strip_prefix(b"/")?;
        self.routes.iter().find_map(|route| route.matches(path))
    }
}

impl Route {
    fn new(pattern: &str, action: Action) -> Result<Self, RouteError> {
        let own = || pattern.to_owned();
        let path = pattern.strip_prefix('/').ok_or_else(|| RouteError::NoSlash(own()))?;
        let mut segments: Vec<Segment> = Vec::new();
        for text in path.split('/') {
            if matches!(segments.last(), Some(Segment::Rest(_))) {
                return Err(RouteError::RestNotLast(own()));
            }
            let segment = match (text.strip_prefix(':'), text.strip_prefix('*')) {
                (Some(name), _) => Segment::One(name.to_owned()),
                (_, Some(name)) => Segment::Rest(name.to_owned()),
                _ => Segment::Literal(text.to_owned()),
            };
            match segment.name() {
                Some("") => return Err(RouteError::NoName(own())),
                Some(name) if segments.iter().any(|earlier| earlier.name() == Some(name)) => {
                    return Err(RouteError::NameTwice(own(), name.to_owned()));
                }
                _ => segments.push(segment),
            }
        }
        Ok(Self { pattern: own(), segments, action })
    }

    /// Returns what the route matches, whatever its names: equal shapes match the same paths, lesser ones are
    /// more exact.
    fn shape(&self) -> Vec<(u8, String)> {
        let of = |segment: &Segment| match segment {
            Segment::Literal(text) => (0, text.clone()),
            Segment::One(_) => (1, String::new()),
            Segment::Rest(_) => (2, String::new()),
        };
        self.segments.iter().map(of).collect()
    }

    fn matches(&self, path: &[u8]) -> Option<RouteMatch<'_>> {
        let mut captures = Vec::new();
        let mut rest = Some(path);
        for segment in &self.segments {
            let path = rest?;
            let (first, after) = match path.iter().position(|&octet| octet == b'/') {
                Some(at) => (path.get(..at)?, path.get(at + 1..)),
                None => (path, None),
            };
            match segment {
                Segment::Literal(text) => literal_matches(text.as_bytes(), first).then_some(())?,
                Segment::One(_) if first.is_empty() => return None,
                Segment::One(name) => captures.push((name.as_str(), decoded(first)?)),
                Segment::Rest(name) => captures.push((name.as_str(), decoded(path)?)),
            }
            rest = if matches!(segment, Segment::Rest(_)) { None } else { after };
        }
        let literal = captures.is_empty();
        rest.is_none().then_some(RouteMatch { action: self.action, literal, captures })
    }
}

impl Segment {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::One(name) | Self::Rest(name) => Some(name),
        }
    }
}

fn literal_matches(literal: &[u8], segment: &[u8]) -> bool {
    literal == segment || segment.contains(&b'%') && decoded(segment).as_deref() == Some(literal)
}

fn decoded(octets: &[u8]) -> Option<Vec<u8>> {
    Escaped(octets).octets().collect::<Result<_, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(announce: &[&str], scrape: &[&str]) -> Result<TrackerRoutes, RouteError> {
        let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        TrackerRoutes::new(&own(announce), &own(scrape))
    }

    fn action(routes: &TrackerRoutes, path: &str) -> Option<Action> {
        routes.find(path.as_bytes()).map(|found| found.action)
    }

    #[test]
    fn literal_routes_match_whole_paths_only() {
        let routes = routes(&["/announce"], &["/scrape"]).unwrap();
        assert_eq!(action(&routes, "/announce"), Some(Action::Announce));
        assert_eq!(action(&routes, "/scrape"), Some(Action::Scrape));
        assert_eq!(action(&routes, "/%61nnounce"), Some(Action::Announce));
        for path in
            ["", "/", "/announce/", "//announce", "/Announce", "/announcex", "/x/announce", "announce"]
        {
            assert_eq!(action(&routes, path), None, "{path}");
        }
    }

    #[test]
    fn segments_are_captured_decoded() {
        let routes = routes(&["/:passkey/announce"], &["/files/*rest"]).unwrap();
        let found = routes.find(b"/a%2Fb+c/announce").unwrap();
        assert_eq!(found.capture("passkey"), Some(&b"a/b+c"[..]));
        assert_eq!(found.capture("other"), None);
        assert!(!found.literal);
        assert_eq!(routes.find(b"/files/a/b%20c/").unwrap().capture("rest"), Some(&b"a/b c/"[..]));
        assert_eq!(routes.find(b"/files/").unwrap().capture("rest"), Some(&b""[..]));
        for path in ["/files", "//announce", "/%zz/announce", "/a/b/announce"] {
            assert_eq!(routes.find(path.as_bytes()), None, "{path}");
        }
    }

    #[test]
    fn the_most_exact_route_wins() {
        let routes = routes(&["/*all", "/:key/announce", "/a/:b"], &["/a/announce", "/:a/*s"]).unwrap();
        assert_eq!(action(&routes, "/a/announce"), Some(Action::Scrape));
        assert_eq!(routes.find(b"/a/x").unwrap().capture("b"), Some(&b"x"[..]));
        assert_eq!(routes.find(b"/k/announce").unwrap().capture("key"), Some(&b"k"[..]));
        assert_eq!(routes.find(b"/k/x/y").unwrap().capture("s"), Some(&b"x/y"[..]));
        assert_eq!(routes.find(b"/k").unwrap().capture("all"), Some(&b"k"[..]));
    }

    #[test]
    fn routes_that_cannot_be_served_are_refused() {
        let refused = |announce: &[&str], scrape: &[&str]| routes(announce, scrape).unwrap_err();
        assert_eq!(refused(&["announce"], &[]), RouteError::NoSlash("announce".into()));
        assert_eq!(refused(&["/*all/x"], &[]), RouteError::RestNotLast("/*all/x".into()));
        assert_eq!(refused(&["/:/x"], &[]), RouteError::NoName("/:/x".into()));
        assert_eq!(refused(&["/:a/:a"], &[]), RouteError::NameTwice("/:a/:a".into(), "a".into()));
        assert_eq!(refused(&["/x"], &["/x"]), RouteError::Duplicate("/x".into(), "/x".into()));
        assert_eq!(refused(&["/:a/x", "/:b/x"], &[]), RouteError::Duplicate("/:a/x".into(), "/:b/x".into()));
        assert!(routes(&["/:a/x", "/y/x"], &["/:a/y"]).is_ok());
    }
}
