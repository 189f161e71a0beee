//! Network namespaces that vanish with the test.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{run_ok, under};

/// A private network namespace with a loopback interface.
///
/// It has no name: a process holds it and ends with its standard input, so nothing remains even if the test is killed.
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// A new namespace.
    ///
    /// # Panics
    /// When there is no right to create one; ask [`namespaces`](crate::namespaces) first.
    pub fn new() -> Namespace {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().expect("unshare is there");
        // The holder echoes once it is in its namespace.
        holder.stdin.as_mut().expect("piped").write_all(b"ready\n").expect("the holder lives");
        let mut line = String::new();
        BufReader::new(holder.stdout.as_mut().expect("piped"))
            .read_line(&mut line)
            .expect("the holder lives");
        assert_eq!(line, "ready\n", "no right to create a network namespace");
        let namespace = Namespace { holder };
        run_ok(namespace.command("ip").args(["link", "set", "lo", "up"]));
        namespace
    }

    /// Two namespaces joined by a cable: 10.0.0.1 and 10.0.0.2.
    pub fn pair() -> (Namespace, Namespace) {
        let (near, far) = (Namespace::new(), Namespace::new());
        let far_id = far.holder.id().to_string();
        let mut link = near.command("ip");
        run_ok(
            link.args(["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", &far_id]),
        );
        for (namespace, address) in [(&near, Namespace::NEAR), (&far, Namespace::FAR)] {
            run_ok(namespace.command("ip").args([
                "address",
                "add",
                &format!("{address}/24"),
                "dev",
                "cable",
            ]));
            run_ok(namespace.command("ip").args(["link", "set", "cable", "up"]));
        }
        (near, far)
    }

    /// The first of a pair's addresses.
    pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    /// The second of a pair's addresses.
    pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    /// A command that runs in here.
    pub fn command(&self, program: &str) -> Command {
        self.enter(&Command::new(program))
    }

    /// The same command, but in here.
    pub(crate) fn enter(&self, command: &Command) -> Command {
        under(&["nsenter".to_owned(), format!("--net={}", self.path()), "--".to_owned()], command)
    }

    /// Calls `function` on a thread in here. Sockets it opens stay in here wherever they are used afterwards.
    ///
    /// # Panics
    /// When `function` does.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        let result = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.move_thread().expect("an own namespace can be entered");
                function()
            });
            inside.join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn move_thread(&self) -> io::Result<()> {
        let namespace = File::open(self.path())?;
        Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Namespace::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        self.holder.wait().expect("the holder ends with its standard input");
    }
}

/// Whether two paths name the same namespace.
#[cfg(test)]
fn same(one: &str, two: &str) -> bool {
    let identity = |path| std::fs::read_link(path).expect("a namespace");
    identity(one) == identity(two)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_apart_and_connected() {
        crate::need!(crate::namespaces());
        let (near, far) = Namespace::pair();
        assert!(!same(&near.path(), &far.path()) && !same(&near.path(), "/proc/self/ns/net"));
        let listener =
            far.run(|| std::net::TcpListener::bind((Namespace::FAR, 7))).expect("a port below 1024");
        near.run(|| std::net::TcpStream::connect((Namespace::FAR, 7)))
            .expect("a connection through the cable");
        assert_eq!(listener.accept().expect("it arrived").1.ip(), Namespace::NEAR);
    }
}
