//! A transport socket behind the hooks that Envoy calls, with a fake Envoy around it.

use super::*;
use crate::{
    ConnectionEvent, EnvoyTransportSocket, IoResult, IoStatus, PostIoAction, TransportSocket,
    abi::envoy_dynamic_module_type_transport_socket_post_io_action as Action, fake::Fake,
};
use std::cell::RefCell;

const LOCAL_CLOSE: u32 = Event::LocalClose as u32;

type Log = Rc<RefCell<Vec<String>>>;
type Step = Box<dyn FnMut(&mut EnvoyTransportSocketImpl) -> IoResult>;

/// A socket that takes notes, and runs code when it reads.
struct Probe {
    log: Log,
    read: Step,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.log.borrow_mut().push("drop".into());
    }
}

impl TransportSocket<EnvoyTransportSocketImpl> for Probe {
    fn on_set_callbacks(&mut self, _envoy: &mut EnvoyTransportSocketImpl) {}

    fn on_connected(&mut self, _envoy: &mut EnvoyTransportSocketImpl) {
        panic!("expected")
    }

    fn on_do_read(&mut self, envoy: &mut EnvoyTransportSocketImpl) -> IoResult {
        (self.read)(envoy)
    }

    fn on_do_write(&mut self, envoy: &mut EnvoyTransportSocketImpl, end_stream: bool) -> IoResult {
        let (status, written) = envoy.io_write_from_write_buffer();
        self.log.borrow_mut().push(format!("write {end_stream} {status:?}"));
        IoResult::keep_open(written, false)
    }

    fn on_close(&mut self, envoy: &mut EnvoyTransportSocketImpl, event: ConnectionEvent, abort_reset: bool) {
        let io = envoy.io_write(b"").0;
        envoy.io_shutdown_write();
        self.log.borrow_mut().push(format!("close {event:?} {abort_reset} {io:?}"));
    }

    fn get_protocol(&self, _envoy: &mut EnvoyTransportSocketImpl) -> String {
        "protocol".into()
    }

    fn get_failure_reason(&self, _envoy: &mut EnvoyTransportSocketImpl) -> String {
        "reason".into()
    }

    fn can_flush_close(&self, _envoy: &mut EnvoyTransportSocketImpl) -> bool {
        false
    }

    fn start_secure_transport(&mut self, _envoy: &mut EnvoyTransportSocketImpl) -> bool {
        true
    }
}

/// Envoy's and the module's half of a socket.
struct Rig {
    envoy: Rc<Fake>,
    socket: *const c_void,
    log: Log,
}

impl Rig {
    fn new(read: impl FnMut(&mut EnvoyTransportSocketImpl) -> IoResult + 'static) -> Self {
        let (envoy, log) = (Rc::<Fake>::default(), Log::default());
        let probe = Box::new(Probe { log: Rc::clone(&log), read: Box::new(read) });
        let socket = Rc::into_raw(Rc::new(Slot::new(probe, Rc::default()))).cast();
        Self { envoy, socket, log }
    }

    /// Has the fake Envoy do this when an event is raised.
    fn script(&self, script: impl Fn(*mut c_void, *const c_void) + 'static) {
        let socket = self.socket;
        self.envoy.script.replace(Some(Box::new(move |envoy| {
            if envoy.calls.borrow().last().is_some_and(|call| call.starts_with("raise")) {
                script(envoy.raw(), socket);
            }
        })));
    }

    fn read(&self) -> AbiIoResult {
        // SAFETY: both exist.
        unsafe { envoy_dynamic_module_on_transport_socket_do_read(self.envoy.raw(), self.socket) }
    }

    fn destroy(self) -> Vec<String> {
        // SAFETY: the socket exists, and this is its last use.
        unsafe { envoy_dynamic_module_on_transport_socket_destroy(self.socket) }
        self.log.take()
    }
}

/// A text that a hook gave.
///
/// # Safety
///
/// The hook returned just now.
unsafe fn text(text: ModuleBytes) -> String {
    // SAFETY: the caller's promise.
    unsafe { envoy_text(EnvoyBytes { ptr: text.ptr, length: text.length }) }.into_owned()
}

const NO_TEXT: ModuleBytes = ModuleBytes { ptr: ptr::null(), length: 0 };

#[test]
fn bytes_move_without_a_copy() {
    let rig = Rig::new(|envoy| {
        let (status, read) = envoy.io_read_to_read_buffer(9000);
        assert_eq!(status, IoStatus::Success);
        IoResult::keep_open(read, true)
    });
    let result = rig.read();
    assert_eq!((result.action, result.bytes_processed, result.end_stream_read), (Action::KeepOpen, 7, true));
    // SAFETY: both exist.
    let result =
        unsafe { envoy_dynamic_module_on_transport_socket_do_write(rig.envoy.raw(), rig.socket, true) };
    assert_eq!(result.bytes_processed, 5);
    assert_eq!(rig.envoy.taken(), ["read up to 9000", "write"]);
    assert_eq!(rig.destroy(), ["write true Success", "drop"]);
}

#[test]
fn a_write_inside_a_hook_comes_later() {
    let rig = Rig::new(|envoy| {
        envoy.raise_event(ConnectionEvent::Connected);
        IoResult::keep_open(0, false)
    });
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, socket| unsafe {
        let result = envoy_dynamic_module_on_transport_socket_do_write(envoy, socket, false);
        assert_eq!((result.action, result.bytes_processed), (Action::KeepOpen, 0));
    });
    rig.read();
    assert_eq!(rig.envoy.taken(), ["raise Connected", "set writable"]);
    assert_eq!(rig.destroy(), ["drop"]);
}

#[test]
fn a_close_inside_a_hook_waits_and_the_socket_is_closed_by_then() {
    let rig = Rig::new(|envoy| {
        envoy.raise_event(ConnectionEvent::Connected);
        assert_eq!(envoy.io_read_to_read_buffer(1), (IoStatus::Error, 0));
        envoy.set_is_readable();
        envoy.set_is_writable();
        envoy.flush_write_buffer();
        IoResult::keep_open(0, false)
    });
    // SAFETY: both exist while the rig does.
    rig.script(|envoy, socket| unsafe {
        envoy_dynamic_module_on_transport_socket_close(envoy, socket, LOCAL_CLOSE, true);
        let mut reason = NO_TEXT;
        envoy_dynamic_module_on_transport_socket_get_failure_reason(envoy, socket, &raw mut reason);
        assert_eq!(text(reason), "");
        assert!(envoy_dynamic_module_on_transport_socket_can_flush_close(envoy, socket));
    });
    rig.read();
    assert_eq!(rig.envoy.taken(), ["raise Connected"]);
    assert_eq!(rig.destroy(), ["close LocalClose true Error", "drop"]);
}

#[test]
fn a_panic_in_a_step_closes_the_connection() {
    let rig = Rig::new(|_| panic!("expected"));
    for _ in 0..2 {
        let result = rig.read();
        assert_eq!((result.action, result.bytes_processed), (Action::Close, 0));
    }
    // SAFETY: both exist.
    unsafe {
        let result = envoy_dynamic_module_on_transport_socket_do_write(rig.envoy.raw(), rig.socket, false);
        assert_eq!(result.action, Action::Close);
        assert!(!envoy_dynamic_module_on_transport_socket_can_flush_close(rig.envoy.raw(), rig.socket));
        envoy_dynamic_module_on_transport_socket_close(rig.envoy.raw(), rig.socket, LOCAL_CLOSE, false);
    }
    assert_eq!(rig.destroy(), ["drop"]);
}

#[test]
fn a_panic_elsewhere_has_the_next_step_close_the_connection() {
    let rig = Rig::new(|_| IoResult::keep_open(0, false));
    // SAFETY: both exist.
    unsafe { envoy_dynamic_module_on_transport_socket_on_connected(rig.envoy.raw(), rig.socket) };
    assert_eq!(rig.envoy.taken(), ["set readable"]);
    assert_eq!(rig.read().action, Action::Close);
    assert_eq!(rig.destroy(), ["drop"]);
}

#[test]
fn texts_and_flags_reach_envoy() {
    let rig = Rig::new(|_| IoResult::close(1, false));
    assert_eq!(rig.read().action, Action::Close);
    let (mut protocol, mut reason) = (NO_TEXT, NO_TEXT);
    // SAFETY: both exist; each text is read before the next hook.
    unsafe {
        envoy_dynamic_module_on_transport_socket_get_protocol(rig.envoy.raw(), rig.socket, &raw mut protocol);
        assert_eq!(text(protocol), "protocol");
        envoy_dynamic_module_on_transport_socket_get_failure_reason(
            rig.envoy.raw(),
            rig.socket,
            &raw mut reason,
        );
        assert_eq!(text(reason), "reason");
        assert!(!envoy_dynamic_module_on_transport_socket_can_flush_close(rig.envoy.raw(), rig.socket));
        assert!(envoy_dynamic_module_on_transport_socket_start_secure_transport(rig.envoy.raw(), rig.socket));
    }
    rig.destroy();
}

#[test]
fn an_unknown_status_is_an_error_and_an_unknown_event_a_local_close() {
    let rig = Rig::new(|envoy| {
        assert_eq!(envoy.io_read_to_read_buffer(1).0, IoStatus::Error);
        IoResult::keep_open(0, false)
    });
    rig.envoy.answer.set(3);
    assert_eq!(IoResult::keep_open(0, false).action, PostIoAction::KeepOpen);
    rig.read();
    // SAFETY: both exist.
    unsafe { envoy_dynamic_module_on_transport_socket_close(rig.envoy.raw(), rig.socket, 99, false) };
    assert!(rig.destroy()[0].starts_with("close LocalClose false"));
}
