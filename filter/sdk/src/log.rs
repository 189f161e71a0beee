//! Logging into Envoy's log, logger `dynamic_modules`.

use crate::{abi::envoy_dynamic_module_type_log_level as LogLevel, buffer::module_bytes, callback};

/// Logs the message if Envoy's logger takes this level; the message is formatted only then.
///
/// Not meant to be called; see the `envoy_log_*` macros.
#[doc(hidden)]
pub fn write(level: LogLevel, message: std::fmt::Arguments<'_>) {
    // SAFETY: the callback has no precondition; it may be called from any thread.
    if !unsafe { callback::log_enabled(level) } {
        return;
    }
    let text;
    let text = match message.as_str() {
        Some(text) => text,
        None => {
            text = message.to_string();
            &text
        }
    };
    // SAFETY: the buffer describes `text`, which outlives the call.
    unsafe { callback::log(level, module_bytes(text.as_bytes())) }
}

/// Logs with a level and the arguments of [`format!`].
///
/// In the unit tests of the calling crate, where there is no Envoy, the message goes to standard error.
#[macro_export]
macro_rules! envoy_log {
    ($level:expr, $($message:tt)*) => {{
        #[cfg(not(test))]
        $crate::log::write($level, ::std::format_args!($($message)*));
        #[cfg(test)]
        ::std::eprintln!("[{:?}] {}", $level, ::std::format_args!($($message)*));
    }};
}

/// Logs a message per packet or event; takes the arguments of [`format!`].
#[macro_export]
macro_rules! envoy_log_trace {
    ($($message:tt)*) => {
        $crate::envoy_log!($crate::abi::envoy_dynamic_module_type_log_level::Trace, $($message)*)
    };
}

/// Logs a message per decision; takes the arguments of [`format!`].
#[macro_export]
macro_rules! envoy_log_debug {
    ($($message:tt)*) => {
        $crate::envoy_log!($crate::abi::envoy_dynamic_module_type_log_level::Debug, $($message)*)
    };
}

/// Logs a message about the lifecycle; takes the arguments of [`format!`].
#[macro_export]
macro_rules! envoy_log_info {
    ($($message:tt)*) => {
        $crate::envoy_log!($crate::abi::envoy_dynamic_module_type_log_level::Info, $($message)*)
    };
}

/// Logs a message that an operator must act on; takes the arguments of [`format!`].
#[macro_export]
macro_rules! envoy_log_warn {
    ($($message:tt)*) => {
        $crate::envoy_log!($crate::abi::envoy_dynamic_module_type_log_level::Warn, $($message)*)
    };
}

/// Logs a failure; takes the arguments of [`format!`].
#[macro_export]
macro_rules! envoy_log_error {
    ($($message:tt)*) => {
        $crate::envoy_log!($crate::abi::envoy_dynamic_module_type_log_level::Error, $($message)*)
    };
}

/// Logs a failure of the process; takes the arguments of [`format!`].
#[macro_export]
macro_rules! envoy_log_critical {
    ($($message:tt)*) => {
        $crate::envoy_log!($crate::abi::envoy_dynamic_module_type_log_level::Critical, $($message)*)
    };
}
