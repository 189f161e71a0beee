//! Counters, gauges and histograms of Envoy's stats.

use crate::{
    abi::{
        envoy_dynamic_module_type_metrics_result as MetricsResult,
        envoy_dynamic_module_type_module_buffer as ModuleBytes,
    },
    buffer::module_bytes,
};
use std::{ffi::c_void, ptr};

/// Identifies a counter within the configuration that defined it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EnvoyCounterId(pub usize);

/// Identifies a gauge within the configuration that defined it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EnvoyGaugeId(pub usize);

/// Identifies a histogram within the configuration that defined it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct EnvoyHistogramId(pub usize);

/// A callback that defines a metric.
type Define = unsafe extern "C" fn(*mut c_void, ModuleBytes, *mut usize) -> u32;
/// A callback that updates a metric.
type Update = unsafe extern "C" fn(*mut c_void, usize, u64) -> u32;
/// As [`Define`], with label names.
type DefineLabelled =
    unsafe extern "C" fn(*mut c_void, ModuleBytes, *mut ModuleBytes, usize, *mut usize) -> u32;
/// As [`Update`], with label values.
type UpdateLabelled = unsafe extern "C" fn(*mut c_void, usize, *mut ModuleBytes, usize, u64) -> u32;

/// Defines a metric.
///
/// # Safety
///
/// `object` is what `callback` takes.
pub(crate) unsafe fn define(
    callback: Define,
    object: *mut c_void,
    name: &str,
) -> Result<usize, MetricsResult> {
    let mut id = 0;
    // SAFETY: the caller's promise; the name and the result outlive the call.
    result(unsafe { callback(object, module_bytes(name.as_bytes()), &raw mut id) }).map(|()| id)
}

/// Updates a metric.
///
/// # Safety
///
/// `object` is what `callback` takes.
pub(crate) unsafe fn update(
    callback: Update,
    object: *mut c_void,
    id: usize,
    value: u64,
) -> Result<(), MetricsResult> {
    // SAFETY: the caller's promise.
    result(unsafe { callback(object, id, value) })
}

/// Defines a metric without labels through a callback that could take some.
///
/// # Safety
///
/// `object` is what `callback` takes.
pub(crate) unsafe fn define_labelled(
    callback: DefineLabelled,
    object: *mut c_void,
    name: &str,
) -> Result<usize, MetricsResult> {
    let mut id = 0;
    // SAFETY: the caller's promise; no labels are none to read; the name and the result outlive the call.
    result(unsafe { callback(object, module_bytes(name.as_bytes()), ptr::null_mut(), 0, &raw mut id) })
        .map(|()| id)
}

/// Updates a metric without labels through a callback that could take some.
///
/// # Safety
///
/// `object` is what `callback` takes.
pub(crate) unsafe fn update_labelled(
    callback: UpdateLabelled,
    object: *mut c_void,
    id: usize,
    value: u64,
) -> Result<(), MetricsResult> {
    // SAFETY: the caller's promise; no labels are none to read.
    result(unsafe { callback(object, id, ptr::null_mut(), 0, value) })
}

/// The error of a metrics callback. A number unknown to this ABI version is some failure.
fn result(raw: u32) -> Result<(), MetricsResult> {
    match MetricsResult::try_from(raw).unwrap_or(MetricsResult::MetricNotFound) {
        MetricsResult::Success => Ok(()),
        error => Err(error),
    }
}

/// Declares the methods that define metrics, in a trait.
macro_rules! declare_metric_definitions {
    () => {
        /// Defines a counter in the scope of this configuration. Only while the configuration is being
        /// created.
        fn define_counter(
            &mut self,
            name: &str,
        ) -> Result<$crate::EnvoyCounterId, $crate::abi::envoy_dynamic_module_type_metrics_result>;

        /// Defines a gauge in the scope of this configuration. Only while the configuration is being created.
        fn define_gauge(
            &mut self,
            name: &str,
        ) -> Result<$crate::EnvoyGaugeId, $crate::abi::envoy_dynamic_module_type_metrics_result>;

        /// Defines a histogram in the scope of this configuration. Only while the configuration is being
        /// created.
        fn define_histogram(
            &mut self,
            name: &str,
        ) -> Result<$crate::EnvoyHistogramId, $crate::abi::envoy_dynamic_module_type_metrics_result>;
    };
}

/// Declares the methods that update metrics, in a trait.
macro_rules! declare_metric_updates {
    () => {
        /// Adds to a counter.
        fn increment_counter(
            &self,
            id: $crate::EnvoyCounterId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result>;

        /// Sets a gauge.
        fn set_gauge(
            &self,
            id: $crate::EnvoyGaugeId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result>;

        /// Adds to a gauge.
        fn increase_gauge(
            &self,
            id: $crate::EnvoyGaugeId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result>;

        /// Subtracts from a gauge.
        fn decrease_gauge(
            &self,
            id: $crate::EnvoyGaugeId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result>;

        /// Records a value in a histogram.
        fn record_histogram_value(
            &self,
            id: $crate::EnvoyHistogramId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result>;
    };
}

/// Implements what [`declare_metric_definitions`] declares, for a type with the field `raw`.
macro_rules! define_metrics_with {
    ($define:ident: $counter:ident, $gauge:ident, $histogram:ident) => {
        fn define_counter(
            &mut self,
            name: &str,
        ) -> Result<$crate::EnvoyCounterId, $crate::abi::envoy_dynamic_module_type_metrics_result> {
            // SAFETY: `raw` is the object of this callback, alive while this handle exists.
            unsafe { $crate::metrics::$define($crate::callback::$counter, self.raw, name) }
                .map($crate::EnvoyCounterId)
        }

        fn define_gauge(
            &mut self,
            name: &str,
        ) -> Result<$crate::EnvoyGaugeId, $crate::abi::envoy_dynamic_module_type_metrics_result> {
            // SAFETY: as above.
            unsafe { $crate::metrics::$define($crate::callback::$gauge, self.raw, name) }
                .map($crate::EnvoyGaugeId)
        }

        fn define_histogram(
            &mut self,
            name: &str,
        ) -> Result<$crate::EnvoyHistogramId, $crate::abi::envoy_dynamic_module_type_metrics_result> {
            // SAFETY: as above.
            unsafe { $crate::metrics::$define($crate::callback::$histogram, self.raw, name) }
                .map($crate::EnvoyHistogramId)
        }
    };
}

/// Implements what [`declare_metric_updates`] declares, for a type with the field `raw`.
macro_rules! update_metrics_with {
    ($update:ident: $increment:ident, $set:ident, $increase:ident, $decrease:ident, $record:ident) => {
        fn increment_counter(
            &self,
            id: $crate::EnvoyCounterId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result> {
            // SAFETY: `raw` is the object of this callback, alive while this handle exists.
            unsafe { $crate::metrics::$update($crate::callback::$increment, self.raw, id.0, value) }
        }

        fn set_gauge(
            &self,
            id: $crate::EnvoyGaugeId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result> {
            // SAFETY: as above.
            unsafe { $crate::metrics::$update($crate::callback::$set, self.raw, id.0, value) }
        }

        fn increase_gauge(
            &self,
            id: $crate::EnvoyGaugeId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result> {
            // SAFETY: as above.
            unsafe { $crate::metrics::$update($crate::callback::$increase, self.raw, id.0, value) }
        }

        fn decrease_gauge(
            &self,
            id: $crate::EnvoyGaugeId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result> {
            // SAFETY: as above.
            unsafe { $crate::metrics::$update($crate::callback::$decrease, self.raw, id.0, value) }
        }

        fn record_histogram_value(
            &self,
            id: $crate::EnvoyHistogramId,
            value: u64,
        ) -> Result<(), $crate::abi::envoy_dynamic_module_type_metrics_result> {
            // SAFETY: as above.
            unsafe { $crate::metrics::$update($crate::callback::$record, self.raw, id.0, value) }
        }
    };
}

pub(crate) use {
    declare_metric_definitions, declare_metric_updates, define_metrics_with, update_metrics_with,
};
