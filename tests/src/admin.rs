//! Envoy's admin interface, which a node offers on a Unix socket only.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// A client of one Envoy's admin interface.
#[derive(Clone, Debug)]
pub struct Admin {
    socket: PathBuf,
}

impl Admin {
    /// The interface behind this socket.
    pub fn new(socket: PathBuf) -> Admin {
        Admin { socket }
    }

    /// The body of a page, or nothing when Envoy does not answer (it may be starting).
    pub fn get(&self, path: &str) -> Option<String> {
        self.request("GET", path)
    }

    /// Sends a command, such as `/drain_listeners`.
    pub fn post(&self, path: &str) -> Option<String> {
        self.request("POST", path)
    }

    /// A counter or gauge; zero when Envoy has none of this name.
    ///
    /// # Panics
    /// When Envoy does not answer.
    #[track_caller]
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.get("/stats").expect("Envoy's admin interface answers");
        let line = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(0, |value| value.trim().parse().expect("a number"))
    }

    /// The names of the listeners that are up.
    pub fn listeners(&self) -> Vec<String> {
        // As text, nothing tells where a name with an IPv6 address in it ends.
        let json = self.get("/listeners?format=json").unwrap_or_default();
        let listeners: serde_json::Value = serde_json::from_str(&json).unwrap_or_default();
        let listeners = listeners["listener_statuses"].as_array().cloned().unwrap_or_default();
        listeners.iter().filter_map(|listener| Some(listener["name"].as_str()?.to_owned())).collect()
    }

    fn request(&self, method: &str, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect(&self.socket).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Some(if chunked { without_chunks(body) } else { body.to_owned() })
    }
}

fn without_chunks(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = rest.get(..size).filter(|chunk| !chunk.is_empty()) else { break };
        text.push_str(chunk);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::without_chunks;

    #[test]
    fn chunks_are_joined() {
        assert_eq!(without_chunks("4\r\nabcd\r\nA\r\n0123456789\r\n0\r\n\r\n"), "abcd0123456789");
    }
}
