//! Which database, and what of it: from a request's method and path.

use std::borrow::Cow;

use aquifer_log::DatabaseName;
use axum::http::Method;
use percent_encoding::percent_decode_str;

use super::answer::Refusal;
use super::frames::FramesRoute;

/// The database of paths that name none.
const DEFAULT: &str = "main";

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: DatabaseName,
    pub(super) route: Route,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Whether a version of Hrana is spoken.
    Version,
    Pipeline,
    Cursor,
    /// Turso's pages.
    Pull,
    /// libSQL's frames.
    Frames(FramesRoute),
    /// Hrana over WebSocket.
    Socket,
}

impl Route {
    /// Its name in metrics and logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Route::Version => "version",
            Route::Pipeline => "pipeline",
            Route::Cursor => "cursor",
            Route::Pull => "pull",
            Route::Frames(FramesRoute::Push(..)) => "frames-push",
            Route::Frames(FramesRoute::Export { .. }) => "frames-export",
            Route::Frames(_) => "frames-pull",
            Route::Socket => "socket",
        }
    }

    /// Whether its requests are work while they last, and not only wait for something new.
    pub(super) fn is_work(self) -> bool {
        match self {
            // A pull may wait for long before it has something to do.
            Route::Version | Route::Pull | Route::Socket => false,
            Route::Pipeline | Route::Cursor | Route::Frames(_) => true,
        }
    }
}

impl Target {
    /// The host's database is that of paths that name none; without one it is the default one.
    pub(super) fn of(method: &Method, path: &str, host: Option<DatabaseName>) -> Result<Target, Refusal> {
        let path = path.trim_start_matches('/');
        let (name, rest) = match path.strip_prefix("db/") {
            Some(named) => named.split_once('/').unwrap_or((named, "")),
            None => (DEFAULT, path),
        };
        // Some clients want a slash at the end of their URL, and others put one more behind it.
        let rest = rest.trim_start_matches('/');
        let is_named = path.starts_with("db/");
        // Clients that drop the last segment of a URL without a slash at its end come here.
        if is_named && matches!(name, "v2" | "v3") && matches!(rest, "pipeline" | "cursor") {
            return Err(Refusal::not_found(
                "no database is named: end the client's URL with a slash, as in http://host/db/NAME/"
                    .to_owned(),
            ));
        }
        let route = match (method, rest) {
            (&Method::GET, "") => Route::Socket,
            (&Method::GET, "v2" | "v3") => Route::Version,
            (&Method::POST, "v2/pipeline" | "v3/pipeline") => Route::Pipeline,
            (&Method::POST, "v3/cursor") => Route::Cursor,
            (&Method::POST, "pull-updates") => Route::Pull,
            _ => match FramesRoute::of(method, rest) {
                Some(route) => Route::Frames(route),
                None => return Err(Refusal::not_found(format!("there is no {method} /{path}"))),
            },
        };
        if let Some(name) = host.filter(|_| !is_named) {
            return Ok(Target { name, route });
        }
        // A name that is not UTF-8 when decoded is taken as it stands.
        let decoded = percent_decode_str(name).decode_utf8().unwrap_or(Cow::Borrowed(name));
        let name = decoded.parse().map_err(|e| Refusal::bad(format!("{name}: {e}")))?;
        Ok(Target { name, route })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &Method, path: &str) -> Option<(String, Route)> {
        let target = Target::of(method, path, None).ok()?;
        Some((target.name.to_string(), target.route))
    }

    #[test]
    fn paths_name_a_database_or_mean_the_default_one() {
        let post = |path| of(&Method::POST, path);
        assert_eq!(post("/v2/pipeline"), Some(("main".into(), Route::Pipeline)));
        assert_eq!(post("/db/shop/v3/pipeline"), Some(("shop".into(), Route::Pipeline)));
        assert_eq!(post("/db/shop/pull-updates"), Some(("shop".into(), Route::Pull)));
        assert_eq!(post("/db/team%2Fshop/v3/cursor"), Some(("team/shop".into(), Route::Cursor)));
        assert_eq!(post("//v2/pipeline"), Some(("main".into(), Route::Pipeline)));
        assert_eq!(post("/db/shop//pull-updates"), Some(("shop".into(), Route::Pull)));
        assert_eq!(of(&Method::GET, "/db/shop/v2"), Some(("shop".into(), Route::Version)));
        for path in ["/", "/db/", "/db/shop", "/v3-protobuf", "/v2/cursor", "/db//v2/pipeline"] {
            assert_eq!(post(path), None, "{path}");
        }
        for (path, name) in [("/", "main"), ("/db/shop", "shop"), ("/db/shop/", "shop")] {
            assert_eq!(of(&Method::GET, path), Some((name.into(), Route::Socket)), "{path}");
        }
        assert_eq!(of(&Method::GET, "/v2/pipeline"), None);
    }

    #[test]
    fn a_host_names_the_database_of_paths_that_do_not() {
        let of =
            |path| Target::of(&Method::POST, path, Some("till".parse().unwrap())).unwrap().name.to_string();
        assert_eq!(of("/v2/pipeline"), "till");
        assert_eq!(of("/db/shop/v2/pipeline"), "shop");
    }

    #[test]
    fn a_url_without_a_slash_at_its_end_is_explained() {
        let refusal = Target::of(&Method::POST, "/db/v2/pipeline", None).unwrap_err();
        assert!(format!("{refusal:?}").contains("slash"), "{refusal:?}");
    }

    proptest::proptest! {
        #[test]
        fn no_path_panics(path in "\\PC*|/db/[%/a-z0-9]*") {
            let _ = Target::of(&Method::POST, &path, None);
        }
    }
}
