#![expect(clippy::panic, reason = "tests")]

use serde_json::json;

use super::*;
use crate::control::Method;

fn request(text: &str) -> (Request, usize) {
    match decode(text.as_bytes()) {
        Decoded::Request { request, consumed } => (request, consumed),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn requests_of_go_clients() {
    let text = "{\"method\":\"NexdCtl.ProxyList\",\"params\":[\"\"],\"id\":0}\n{\"method\"";
    let (first, consumed) = request(text);
    assert_eq!(
        first,
        Request { id: json!(0), method: "NexdCtl.ProxyList".into(), argument: Ok(String::new()) }
    );
    assert_eq!(decode(&text.as_bytes()[consumed..]), Decoded::Incomplete);
}

#[test]
fn arguments() {
    let argument =
        |params: &str| request(&format!("{{\"method\":\"m\",\"params\":{params},\"id\":1}}")).0.argument;
    assert_eq!(argument("[\"tcp:1:h:1\"]"), Ok("tcp:1:h:1".into()));
    assert_eq!(argument("[\"a\",\"b\"]"), Ok("a".into()));
    for empty in ["null", "[]", "[null]", "[\"\"]"] {
        assert_eq!(argument(empty), Ok(String::new()), "{empty}");
    }
    for wrong in ["5", "{}", "[5]", "[[]]"] {
        assert!(argument(wrong).is_err(), "{wrong}");
    }
    assert_eq!(request("{\"method\":\"m\"}").0.argument, Ok(String::new()));
}

#[test]
fn every_beginning_of_a_request_is_incomplete() {
    let text = r#" {"method":"NexdCtl.ProxyAddEgress","params":["tcp:80:[::1]:80 \" é"],"id":"x"}"#;
    for end in 0..text.len() {
        assert_eq!(decode(&text.as_bytes()[..end]), Decoded::Incomplete, "{end}");
    }
    assert_eq!(request(text).1, text.len());
}

#[test]
fn malformed() {
    for text in ["x", "{]", "{\"method\":5}", "5", "\"text\"", "[]", "GET / HTTP/1.1", "\0"] {
        assert_eq!(decode(text.as_bytes()), Decoded::Malformed, "{text}");
    }
}

#[test]
fn replies() {
    let reply = |outcome| String::from_utf8_lossy(&encode_reply(&json!(7), &outcome)).into_owned();
    assert_eq!(reply(Ok("a\n".into())), "{\"id\":7,\"result\":\"a\\n\",\"error\":null}\n");
    assert_eq!(reply(Err("no".into())), "{\"id\":7,\"result\":null,\"error\":\"no\"}\n");
}

#[test]
fn a_client_reads_replies() {
    let outcome = |line: &str| decode_reply(line.as_bytes());
    assert_eq!(outcome("{\"id\":0,\"result\":\"a\",\"error\":null}").ok(), Some(Ok("a".into())));
    assert_eq!(outcome("{\"id\":0,\"result\":null,\"error\":\"no\"}").ok(), Some(Err("no".into())));
    assert!(outcome("no").is_err());
    assert_eq!(
        encode_call("NexdCtl.Status", ""),
        b"{\"method\":\"NexdCtl.Status\",\"params\":[\"\"],\"id\":0}\n"
    );
}

#[test]
fn methods() {
    assert_eq!(Method::parse("NexdCtl.ProxyList"), Ok(Method::ProxyList));
    assert_eq!(Method::parse("NexdCtl.ListPeers"), Ok(Method::ListPeers));
    assert_eq!(Method::parse("NexdCtl.ListExitNodes"), Ok(Method::Unsupported("ListExitNodes")));
    assert_eq!(Method::parse("NexdCtl.X"), Err("rpc: can't find method NexdCtl.X".into()));
    assert_eq!(Method::parse("Other.Status"), Err("rpc: can't find service Other.Status".into()));
    assert_eq!(Method::parse("Status"), Err("rpc: service/method request ill-formed: Status".into()));
}
