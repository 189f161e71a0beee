//! A health checker behind the hooks that Envoy calls, with a fake Envoy around it.

use super::*;
use crate::{fake::Fake, health_checker::HostHealth};

/// A configuration whose sessions behave by its name.
struct Config(String);

impl HealthCheckerConfig for Config {
    fn new_session(&self, host: &HealthCheckHost) -> Box<dyn HealthCheckerSession> {
        assert_ne!(self.0, "no session", "expected");
        assert!(host.address().is_none(), "an internal host has none");
        Box::new(Session(self.0.clone()))
    }
}

struct Session(String);

impl HealthCheckerSession for Session {
    fn on_interval(&mut self, host: &HealthCheckHost, reporter: Reporter) {
        assert_ne!(self.0, "panic", "expected");
        let destination = host.metadata_string("nexodus", "destination");
        let health = if destination.is_some_and(|text| text.as_slice() == b"192.0.2.1:80") {
            HostHealth::Healthy
        } else {
            HostHealth::Unhealthy
        };
        // As the network thread does.
        assert!(std::thread::spawn(move || reporter.report(health)).join().is_ok());
    }

    fn on_timeout(&mut self) {
        panic!("expected");
    }
}

fn new_config(name: &str, config: &[u8]) -> Option<Box<dyn HealthCheckerConfig>> {
    (config == b"good").then(|| Box::new(Config(name.into())) as _)
}

fn config(name: &'static str, config: &'static str) -> *const c_void {
    NEW_HEALTH_CHECKER_CONFIG_FUNCTION.get_or_init(|| new_config);
    let bytes = |text: &'static str| EnvoyBytes { ptr: text.as_ptr().cast(), length: text.len() };
    // SAFETY: the texts are valid.
    unsafe { envoy_dynamic_module_on_health_checker_config_new(ptr::null_mut(), bytes(name), bytes(config)) }
}

/// What Envoy is called for in three intervals, with a timeout before the last.
fn three_intervals(envoy: &Fake, name: &'static str) -> Vec<String> {
    let config = config(name, "good");
    // SAFETY: configuration and session are used between their creation and their destruction only.
    unsafe {
        let session = envoy_dynamic_module_on_health_checker_session_new(config, envoy.raw());
        if !session.is_null() {
            envoy_dynamic_module_on_health_checker_session_on_interval(session, envoy.raw());
            envoy_dynamic_module_on_health_checker_session_on_interval(session, envoy.raw());
            envoy_dynamic_module_on_health_checker_session_on_timeout(session);
            envoy_dynamic_module_on_health_checker_session_on_interval(session, envoy.raw());
            envoy_dynamic_module_on_health_checker_session_destroy(session);
        }
        envoy_dynamic_module_on_health_checker_config_destroy(config);
    }
    envoy.taken()
}

#[test]
fn each_interval_has_a_reporter_and_one_result() {
    let envoy = Fake::default();
    let metadata = "metadata nexodus destination";
    envoy.answer.set(1);
    let healthy = ["new scheduler", metadata, "report Healthy", "delete scheduler"];
    // The timeout panics, so the session is gone in the third interval.
    let calls = three_intervals(&envoy, "any");
    assert_eq!(calls[0], "address");
    assert_eq!(calls[1..5], healthy);
    assert_eq!(calls[5..9], healthy);
    assert_eq!(calls[9..], ["new scheduler", "delete scheduler"]);

    envoy.answer.set(0);
    assert_eq!(three_intervals(&envoy, "any")[3], "report Unhealthy");
}

#[test]
fn a_session_that_panics_reports_nothing_and_leaks_nothing() {
    let envoy = Fake::default();
    assert_eq!(three_intervals(&envoy, "panic")[1..], ["new scheduler", "delete scheduler"].repeat(3));
    assert_eq!(three_intervals(&envoy, "no session"), [""; 0]);
    assert!(config("any", "refused").is_null());
}

#[test]
fn what_envoy_knows_of_a_host_is_passed_on() {
    let envoy = Fake::default();
    // SAFETY: the fake outlives the host.
    let host = unsafe { HealthCheckHost::new(envoy.raw()) };
    assert_eq!((host.metadata_number("a", "b"), host.metadata_bool("a", "b")), (None, None));
    let health = [0, 1, 2, 3].map(|answer| {
        envoy.answer.set(answer);
        host.health()
    });
    use HostHealth::{Degraded, Healthy, Unhealthy};
    assert_eq!(health, [Unhealthy, Degraded, Healthy, Unhealthy]);
    assert_eq!((host.metadata_number("a", "b"), host.metadata_bool("a", "b")), (Some(0.5), Some(true)));
}
