//! The completion of a shutdown is signalled exactly once, whatever the extension does with it.

use super::*;
use crate::EnvoyBootstrapExtension;
use std::sync::atomic::{AtomicU32, Ordering};

/// What an extension does with the completion.
enum Ext {
    Done,
    Forward,
    Panic,
    PanicBefore,
}

impl BootstrapExtension for Ext {
    fn on_server_initialized(&mut self, _envoy: &mut dyn EnvoyBootstrapExtension) {
        if let Self::PanicBefore = self {
            panic!("expected")
        }
    }

    fn on_shutdown(&mut self, _envoy: &mut dyn EnvoyBootstrapExtension, completion: CompletionCallback) {
        match self {
            Self::Done => completion.done(),
            Self::Forward => drop(std::thread::spawn(|| completion.done()).join()),
            Self::Panic | Self::PanicBefore => panic!("expected"),
        }
    }
}

/// Envoy's completion: counts.
unsafe extern "C" fn complete(context: *mut c_void) {
    // SAFETY: the test passes a counter that outlives the call.
    unsafe { &*context.cast::<AtomicU32>() }.fetch_add(1, Ordering::SeqCst);
}

#[test]
fn a_shutdown_is_completed_once() {
    for extension in [Ext::Done, Ext::Forward, Ext::Panic, Ext::PanicBefore] {
        let completed = AtomicU32::new(0);
        let extension: *const c_void =
            Box::into_raw(Box::new(ExtensionObject::new(Box::new(extension)))).cast();
        let envoy = ptr::null_mut();
        // SAFETY: the extension and the counter exist; the extension is destroyed after its last use.
        unsafe {
            envoy_dynamic_module_on_bootstrap_extension_server_initialized(envoy, extension);
            let context = ptr::from_ref(&completed).cast_mut().cast();
            envoy_dynamic_module_on_bootstrap_extension_shutdown(envoy, extension, Some(complete), context);
            envoy_dynamic_module_on_bootstrap_extension_destroy(extension);
        }
        assert_eq!(completed.load(Ordering::SeqCst), 1);
    }
}
