//! Connections that do nothing: what each costs in memory, and what they cost one that does something.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use e2e::{Envoy, Products, free_port, memory_kib};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::bulk::{self, Direction};
use super::samples::Figure;
use super::service::{ECHO, runtime};
use super::small;
use super::world::World;
use crate::Result;

/// How many connections there are when memory is read. The last is nearly 10,000: a node lets in half as many as it may open
/// files, which is 9,872 where the limit is 20,000.
const STEPS: [usize; 3] = [1_000, 4_000, LAST];
const LAST: usize = 9_800;

/// How many are being opened at once.
const AT_ONCE: usize = 64;

/// How long one connection may take to open and to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// After the last connection opened or closed, until everything is at rest.
const REST: Duration = Duration::from_secs(1);

/// Our node's chain of listeners with a filter of Envoy's own at its end, and no tunnel.
const NULL_FILTER: &str = include_str!("null_filter.yaml");

/// On a rig that has done nothing yet: memory that was in use once stays with the process.
pub(super) fn measure(world: &World, time: Duration) -> Result<Vec<Figure>> {
    let before = memory_kib(world.process);
    let program = std::env::current_exe()?;
    let holder = Holder::start(&mut world.near.command(&program.display().to_string()), world.target)?;
    let (per_step, beside) =
        holder.steps(|count| each(world.process, before, count), || Active::measure(world, time))?;
    std::thread::sleep(REST);
    let alone = Active::measure(world, time)?;
    let ratio = |of: fn(&Active) -> f64| of(&beside) / of(&alone);

    let null = null_filter(world.products)?;
    let mut figures = Vec::new();
    for ((step, kib), null) in STEPS.into_iter().zip(per_step).zip(null) {
        figures.push(Figure::new(format!("idle_{step}_memory"), "KiB", kib));
        figures.push(Figure::new(format!("idle_{step}_memory_null_filter"), "KiB", null));
        figures.push(Figure::new(format!("idle_{step}_memory_ours"), "KiB", kib - null));
        figures.push(Figure::new(format!("idle_{step}_memory_vs_null_filter"), "ratio", kib / null));
    }
    figures.push(Figure::new("beside_idle_throughput", "ratio", ratio(|active| active.up)));
    figures.push(Figure::new("beside_idle_throughput_down", "ratio", ratio(|active| active.down)));
    figures.push(Figure::new("beside_idle_latency", "ratio", ratio(|active| active.p50)));
    Ok(figures)
}

/// A process that holds connections: their two ends together are more files than one process may have open.
struct Holder {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Holder {
    fn start(command: &mut Command, target: SocketAddr) -> Result<Self> {
        let command = command.args(["hold", &target.to_string()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = process.stdout.take().ok_or("no standard output")?;
        Ok(Self { process, output: BufReader::new(output) })
    }

    /// Calls `at_step` with the number of connections whenever there are enough, and `at_last` with all of them open.
    fn steps<T>(
        mut self,
        at_step: impl Fn(usize) -> f64,
        at_last: impl FnOnce() -> Result<T>,
    ) -> Result<(Vec<f64>, T)> {
        let mut per_step = Vec::new();
        for count in STEPS {
            let mut line = String::new();
            self.output.read_line(&mut line)?;
            if line.trim() != count.to_string() {
                return Err(format!("{count} connections could not be opened").into());
            }
            std::thread::sleep(REST);
            per_step.push(at_step(count));
            if count != LAST {
                self.process.stdin.as_mut().ok_or("no standard input")?.write_all(b"on\n")?;
            }
        }
        Ok((per_step, at_last()?))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends with its standard input, and its connections with it.
        drop(self.process.stdin.take());
        if let Err(error) = self.process.wait() {
            eprintln!("the process that holds connections: {error}");
        }
    }
}

/// What one connection that is used reaches.
struct Active {
    up: f64,
    down: f64,
    p50: f64,
}

impl Active {
    fn measure(world: &World, time: Duration) -> Result<Self> {
        let bulk = |direction| bulk::measure(world, direction, 1, time);
        Ok(Self {
            up: value(&bulk(Direction::Up)?, "bulk_up_1")?,
            down: value(&bulk(Direction::Down)?, "bulk_down_1")?,
            p50: value(&small::pingpong(world, time)?, "pingpong_p50")?,
        })
    }
}

fn value(figures: &[Figure], name: &str) -> Result<f64> {
    let figure = figures.iter().find(|figure| figure.name == name);
    Ok(figure.ok_or_else(|| format!("no figure {name}"))?.value)
}

/// KiB that a process has got for each connection.
fn each(process: u32, before: u64, connections: usize) -> f64 {
    memory_kib(process).saturating_sub(before) as f64 / connections as f64
}

/// `bench hold ADDRESS`: opens connections, says how many there are at each step, and waits for a line before the next one.
/// Each connection has carried a byte both ways.
pub(super) fn hold(target: SocketAddr) -> Result<()> {
    e2e::raise_file_limit();
    let mut lines = std::io::stdin().lines();
    let runtime = runtime()?;
    let set = LocalSet::new();
    let permits = Rc::new(Semaphore::new(AT_ONCE));
    let mut held = Vec::new();
    for step in STEPS {
        let open = async {
            let mut opening = Vec::new();
            for _ in held.len()..step {
                let permits = Rc::clone(&permits);
                opening.push(tokio::task::spawn_local(async move {
                    let _permit = permits.acquire().await.map_err(std::io::Error::other)?;
                    timeout(PATIENCE, one(target)).await?
                }));
            }
            for connection in opening {
                held.push(connection.await??);
            }
            Result::Ok(())
        };
        set.block_on(&runtime, open)?;
        println!("{step}");
        if lines.next().is_none() {
            break;
        }
    }
    Ok(())
}

async fn one(target: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(&[ECHO, 1]).await?;
    stream.read_u8().await?;
    Ok(stream)
}

/// KiB for each connection at each step.
fn null_filter(products: &Products) -> Result<Vec<f64>> {
    let directory = tempfile::tempdir()?;
    let (admin, port) = (directory.path().join("admin.sock"), free_port());
    let configuration = directory.path().join("null_filter.yaml");
    let text = NULL_FILTER.replace("ADMIN", &admin.display().to_string()).replace("PORT", &port.to_string());
    fs::write(&configuration, text)?;
    let envoy = Envoy::start(products, &configuration, admin);
    let target = SocketAddr::from(([127, 0, 0, 1], port));
    // As for the node, what the first connection costs Envoy is nobody's.
    runtime()?.block_on(one(target))?;
    let before = memory_kib(envoy.id());
    let holder = Holder::start(&mut Command::new(std::env::current_exe()?), target)?;
    Ok(holder.steps(|count| each(envoy.id(), before, count), || Ok(()))?.0)
}
