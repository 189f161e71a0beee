//! How much a node says, changed while it runs: its own messages and Envoy's together.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::cli::EnvoyLogLevel;

/// The switch. Clones are the same one.
#[derive(Clone)]
pub struct Debug {
    state: Arc<State>,
}

struct State {
    on: AtomicBool,
    /// Envoy's level when it is off.
    configured: EnvoyLogLevel,
    /// Replaces the filter of nexd's own log.
    apply: Box<Apply>,
}

type Apply = dyn Fn(&str) -> Result<(), String> + Send + Sync;

impl Debug {
    /// A switch in this position; `apply` is called with the directives of a `tracing_subscriber::EnvFilter` whenever it is
    /// moved.
    pub fn new(
        on: bool,
        configured: EnvoyLogLevel,
        apply: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { state: Arc::new(State { on: AtomicBool::new(on), configured, apply: Box::new(apply) }) }
    }

    /// Its position.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.state.on.load(Ordering::Relaxed)
    }

    /// Moves it, for nexd's own log. Envoy has to be told its [`level`](Self::envoy_level); one that starts later has it.
    ///
    /// # Errors
    /// When the log does not take the filter; nothing is changed then.
    pub fn set(&self, on: bool) -> Result<(), String> {
        (self.state.apply)(&filter(on, self.state.configured))?;
        self.state.on.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// What Envoy is to say.
    #[must_use]
    pub fn envoy_level(&self) -> EnvoyLogLevel {
        envoy_level(self.is_on(), self.state.configured)
    }
}

impl fmt::Debug for Debug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Debug").field("on", &self.is_on()).finish_non_exhaustive()
    }
}

fn envoy_level(on: bool, configured: EnvoyLogLevel) -> EnvoyLogLevel {
    match configured {
        EnvoyLogLevel::Trace => configured,
        _ if on => EnvoyLogLevel::Debug,
        _ => configured,
    }
}

/// The filter of nexd's log, through which Envoy's messages pass too: what Envoy was told to say is shown.
pub(super) fn filter(on: bool, configured: EnvoyLogLevel) -> String {
    let own = if on { "debug" } else { "info" };
    let envoy = match envoy_level(on, configured) {
        EnvoyLogLevel::Trace => "trace",
        EnvoyLogLevel::Debug => "debug",
        // What Envoy does not say needs no filter; and what nexd says of it with this target should be seen.
        _ => "info",
    };
    format!("info,xds_server={own},envoy={envoy}")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use std::sync::Mutex;

    use super::*;

    #[test]
    fn both_logs_are_switched() {
        let filters = Arc::<Mutex<Vec<String>>>::default();
        let log = Arc::clone(&filters);
        let apply = move |filter: &str| {
            log.lock().unwrap().push(filter.to_owned());
            Ok(())
        };
        let debug = Debug::new(false, EnvoyLogLevel::Warning, apply);
        let clone = debug.clone();
        assert_eq!((clone.is_on(), clone.envoy_level()), (false, EnvoyLogLevel::Warning));
        debug.set(true).unwrap();
        assert_eq!((clone.is_on(), clone.envoy_level()), (true, EnvoyLogLevel::Debug));
        debug.set(false).unwrap();
        assert_eq!((clone.is_on(), clone.envoy_level()), (false, EnvoyLogLevel::Warning));
        let expected = ["info,xds_server=debug,envoy=debug", "info,xds_server=info,envoy=info"];
        assert_eq!(*filters.lock().unwrap(), expected);
    }

    #[test]
    fn a_configured_level_is_shown_and_not_lowered() {
        assert_eq!(filter(false, EnvoyLogLevel::Debug), "info,xds_server=info,envoy=debug");
        assert_eq!(filter(true, EnvoyLogLevel::Trace), "info,xds_server=debug,envoy=trace");
        assert_eq!(filter(false, EnvoyLogLevel::Off), "info,xds_server=info,envoy=info");
        for level in [EnvoyLogLevel::Warning, EnvoyLogLevel::Debug, EnvoyLogLevel::Trace] {
            tracing_subscriber::EnvFilter::try_new(filter(true, level)).unwrap();
        }
    }

    #[test]
    fn a_filter_that_is_not_taken_changes_nothing() {
        let debug = Debug::new(false, EnvoyLogLevel::Info, |_| Err("gone".to_owned()));
        assert_eq!(debug.set(true), Err("gone".to_owned()));
        assert!(!debug.is_on());
    }
}
