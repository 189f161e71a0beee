//! JSON-RPC 1.0 as Go's `net/rpc/jsonrpc` speaks it: JSON values one after another, replies ended by a newline.
//!
//! <https://pkg.go.dev/net/rpc/jsonrpc>. `params` is a list whose first element is the one argument of a method; more
//! elements are ignored, none or null is the empty string.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The most bytes of one request. A rule with the longest host name has about 280.
pub const MAX_REQUEST_BYTES: usize = 16 << 10;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Echoed in the reply, whatever it is.
    pub id: Value,
    /// Such as `NexdCtl.ProxyList`.
    pub method: String,
    /// The argument, or the text that says why there is none.
    pub argument: Result<String, String>,
}

/// What the bytes received so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The first `consumed` bytes are a request.
    Request {
        /// The request.
        request: Request,
        /// How many bytes it took.
        consumed: usize,
    },
    /// The beginning of a request, or nothing but space.
    Incomplete,
    /// Nothing that could become a request. As in Go, the connection is of no more use.
    Malformed,
}

#[derive(Serialize)]
struct WireReply<'a> {
    id: &'a Value,
    result: Option<&'a str>,
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct WireCall<'a> {
    method: &'a str,
    params: [&'a str; 1],
    id: u64,
}

#[derive(Deserialize)]
struct WireAnswer {
    #[serde(default)]
    result: Option<String>,
    #[serde(default)]
    error: Value,
}

/// Takes the first request off the front of `bytes`.
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded {
    let mut values = serde_json::Deserializer::from_slice(bytes).into_iter::<Map<String, Value>>();
    match values.next() {
        None => Decoded::Incomplete,
        Some(Ok(fields)) => match request(fields) {
            Some(request) => Decoded::Request { request, consumed: values.byte_offset() },
            None => Decoded::Malformed,
        },
        Some(Err(error)) if error.is_eof() => Decoded::Incomplete,
        Some(Err(_)) => Decoded::Malformed,
    }
}

fn request(mut fields: Map<String, Value>) -> Option<Request> {
    let mut take = |name| fields.remove(name).unwrap_or_default();
    let method = match take("method") {
        Value::String(method) => method,
        Value::Null => String::new(),
        _ => return None,
    };
    Some(Request { id: take("id"), method, argument: argument(take("params")) })
}

fn argument(params: Value) -> Result<String, String> {
    let first = match params {
        Value::Null => Value::Null,
        Value::Array(list) => list.into_iter().next().unwrap_or_default(),
        _ => return Err("the parameters must be a list with one string".to_owned()),
    };
    match first {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text),
        _ => Err("the parameter must be a string".to_owned()),
    }
}

/// A reply, ended by a newline.
#[must_use]
pub fn encode_reply(id: &Value, outcome: &Result<String, String>) -> Vec<u8> {
    let (result, error) = match outcome {
        Ok(result) => (Some(result.as_str()), None),
        Err(error) => (None, Some(error.as_str())),
    };
    line(&WireReply { id, result, error })
}

/// A call, ended by a newline.
#[must_use]
pub fn encode_call(method: &str, argument: &str) -> Vec<u8> {
    line(&WireCall { method, params: [argument], id: 0 })
}

/// The outcome that a reply carries.
///
/// # Errors
/// When this is no reply.
pub fn decode_reply(line: &[u8]) -> Result<Result<String, String>, serde_json::Error> {
    let answer: WireAnswer = serde_json::from_slice(line)?;
    Ok(match answer.error {
        Value::Null => Ok(answer.result.unwrap_or_default()),
        Value::String(text) => Err(text),
        other => Err(other.to_string()),
    })
}

fn line(value: &impl Serialize) -> Vec<u8> {
    // Strings and numbers always serialize.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
