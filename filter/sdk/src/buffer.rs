//! Bytes that cross the ABI.

use crate::abi::{
    envoy_dynamic_module_type_envoy_buffer as EnvoyBytes,
    envoy_dynamic_module_type_module_buffer as ModuleBytes,
};
use std::{borrow::Cow, ffi::c_void, marker::PhantomData, slice};

/// Bytes owned by Envoy, readable as long as the object they were taken from is borrowed.
///
/// Source: `envoy_dynamic_module_type_envoy_buffer`.
#[derive(Debug, Clone, Copy, Default)]
pub struct EnvoyBuffer<'a> {
    bytes: &'a [u8],
    /// Envoy's buffers belong to one worker thread.
    _not_send: PhantomData<*const u8>,
}

impl<'a> EnvoyBuffer<'a> {
    /// Wraps bytes of the module, for the tests of a filter.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, _not_send: PhantomData }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes
    }

    /// Wraps a buffer that Envoy filled in.
    ///
    /// # Safety
    ///
    /// Unless null, the pointer is valid for reads of `length` bytes that stay unchanged for `'a`.
    pub(crate) unsafe fn from_abi(buffer: EnvoyBytes) -> Self {
        // SAFETY: the caller's promise.
        Self::new(unsafe { envoy_bytes(buffer) })
    }
}

/// A buffer for Envoy to fill in.
pub(crate) const EMPTY: EnvoyBytes = EnvoyBytes { ptr: std::ptr::null(), length: 0 };

/// Describes bytes of the module to Envoy. The result is good as long as `bytes` is.
pub(crate) fn module_bytes(bytes: &[u8]) -> ModuleBytes {
    ModuleBytes { ptr: bytes.as_ptr().cast(), length: bytes.len() }
}

/// The bytes of a buffer received from Envoy; null stands for none.
///
/// # Safety
///
/// Unless null, the pointer is valid for reads of `length` bytes that stay unchanged for `'a`.
pub(crate) unsafe fn envoy_bytes<'a>(buffer: EnvoyBytes) -> &'a [u8] {
    if buffer.ptr.is_null() || buffer.length == 0 {
        return &[];
    }
    // SAFETY: not null, and the rest is the caller's promise.
    unsafe { slice::from_raw_parts(buffer.ptr.cast(), buffer.length) }
}

/// The text of a buffer received from Envoy.
///
/// # Safety
///
/// As [`envoy_bytes`].
pub(crate) unsafe fn envoy_text<'a>(buffer: EnvoyBytes) -> Cow<'a, str> {
    // SAFETY: the caller's promise.
    String::from_utf8_lossy(unsafe { envoy_bytes(buffer) })
}

/// A callback that fills in an IP address and a port.
pub(crate) type AddressCallback = unsafe extern "C" fn(*mut c_void, *mut EnvoyBytes, *mut u32) -> bool;

/// Asks Envoy for an address; `None` when there is none or it is not an IP address.
///
/// # Safety
///
/// `object` is what `callback` takes, and it outlives `'a`.
pub(crate) unsafe fn address<'a>(
    callback: AddressCallback,
    object: *mut c_void,
) -> Option<(EnvoyBuffer<'a>, u32)> {
    let (mut address, mut port) = (EMPTY, 0);
    // SAFETY: the caller's promise; both results are valid for writes.
    let known = unsafe { callback(object, &raw mut address, &raw mut port) };
    // SAFETY: Envoy filled in a string that it keeps with the object.
    let address = unsafe { EnvoyBuffer::from_abi(address) };
    (known && !address.as_slice().is_empty()).then_some((address, port))
}

/// As [`address`], copied, and with `("", 0)` for none.
///
/// # Safety
///
/// `object` is what `callback` takes.
pub(crate) unsafe fn owned_address(callback: AddressCallback, object: *mut c_void) -> (String, u32) {
    // SAFETY: the caller's promise; the bytes are copied at once.
    match unsafe { address(callback, object) } {
        Some((address, port)) => (String::from_utf8_lossy(address.as_slice()).into_owned(), port),
        None => (String::new(), 0),
    }
}

/// Takes the chunks of a buffer of Envoy, as its pairs of callbacks (count, fill) offer them.
///
/// # Safety
///
/// `fill` writes no more than `count` entries, and what they describe is unchanged for `'a`.
pub(crate) unsafe fn chunks<'a>(
    count: usize,
    fill: impl FnOnce(*mut EnvoyBytes) -> bool,
) -> Option<Vec<EnvoyBuffer<'a>>> {
    let mut chunks = vec![EMPTY; count];
    if !fill(chunks.as_mut_ptr()) {
        return None;
    }
    // SAFETY: Envoy filled them in, or left them null.
    Some(chunks.into_iter().map(|chunk| unsafe { EnvoyBuffer::from_abi(chunk) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ptr;

    fn buffer(bytes: &'static [u8]) -> EnvoyBytes {
        EnvoyBytes { ptr: bytes.as_ptr().cast(), length: bytes.len() }
    }

    #[test]
    fn null_is_empty_whatever_its_length() {
        for length in [0, 5] {
            // SAFETY: null.
            assert_eq!(unsafe { envoy_bytes(EnvoyBytes { ptr: ptr::null(), length }) }, b"");
        }
    }

    #[test]
    fn what_is_not_text_is_replaced() {
        // SAFETY: the bytes are static.
        assert_eq!(unsafe { envoy_text(buffer(b"a\xff")) }, "a\u{fffd}");
    }

    #[test]
    fn chunks_keep_their_order_and_unfilled_ones_are_empty() {
        // SAFETY: two of three entries are written, with static bytes.
        let filled = unsafe {
            chunks(3, |chunks| {
                chunks.write(buffer(b"one"));
                chunks.add(1).write(buffer(b"two"));
                true
            })
        };
        let texts: Vec<_> = filled.iter().flatten().map(EnvoyBuffer::as_slice).collect();
        assert_eq!(texts, [&b"one"[..], b"two", b""]);
        // SAFETY: nothing is written.
        assert!(unsafe { chunks(3, |_| false) }.is_none());
    }

    /// Answers with an address of the length that `object` points to.
    unsafe extern "C" fn ask(object: *mut c_void, address: *mut EnvoyBytes, port: *mut u32) -> bool {
        // SAFETY: the test passes a length, and the module valid results.
        unsafe {
            let length = *object.cast::<usize>();
            *address = EnvoyBytes { length, ..buffer(b"192.0.2.1") };
            *port = 7;
        }
        true
    }

    #[test]
    fn an_empty_address_is_none() {
        let (mut some, mut none) = (9_usize, 0_usize);
        // SAFETY: `ask` takes lengths.
        unsafe {
            assert_eq!(owned_address(ask, ptr::from_mut(&mut some).cast()), ("192.0.2.1".into(), 7));
            assert_eq!(owned_address(ask, ptr::from_mut(&mut none).cast()), (String::new(), 0));
        }
    }
}
