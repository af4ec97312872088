//! Network namespaces on this machine: a bridge, a link for each node that can be cut or narrowed, and a small disk for each node.
//!
//! Where they are not allowed a test says so and is skipped, unless `EVALMESH_NAMESPACES=required` is set, as our own checks do: then it fails.
//!
//! Everything made here has a name of its own and goes away with the value.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The namespaces of one fleet.
pub(super) struct Namespaces {
    prefix: String,
    nodes: usize,
    disks: Vec<PathBuf>,
}

/// Runs a program; the error is what it said.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(format!("{program} {}: {said}", args.join(" "))) }
}

fn ip(line: &str) -> Result<(), String> {
    run("ip", &line.split(' ').collect::<Vec<_>>())
}

impl Namespaces {
    /// So many of them; the error says why there can be none.
    pub(super) fn new(nodes: usize) -> Result<Self, String> {
        // Several tests of one process may have a fleet each.
        static FLEETS: AtomicU32 = AtomicU32::new(0);
        let number = FLEETS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("em{}x{number}", std::process::id() % 100_000);
        let namespaces = Self { prefix, nodes, disks: Vec::new() };
        if let Err(why) = namespaces.make() {
            let required = std::env::var_os("EVALMESH_NAMESPACES").is_some_and(|value| value == "required");
            assert!(!required, "no network namespaces here: {why}");
            return Err(why);
        }
        Ok(namespaces)
    }

    /// The name of one.
    pub(super) fn name(&self, node: usize) -> String {
        format!("{}n{node}", self.prefix)
    }

    /// Its address in its network.
    pub(super) fn address(node: usize) -> String {
        format!("10.77.0.{}", node + 1)
    }

    /// The bridge is in a namespace of its own, so nothing of this is seen by the rest of the machine.
    fn make(&self) -> Result<(), String> {
        let p = &self.prefix;
        ip(&format!("netns add {p}b"))?;
        ip(&format!("-n {p}b link add br0 type bridge"))?;
        ip(&format!("-n {p}b link set br0 up"))?;
        for n in 0..self.nodes {
            ip(&format!("netns add {p}n{n}"))?;
            ip(&format!("-n {p}n{n} link set lo up"))?;
            ip(&format!("-n {p}n{n} link add eth0 type veth peer name port{n} netns {p}b"))?;
            ip(&format!("-n {p}n{n} addr add 10.77.0.{}/24 dev eth0", n + 1))?;
            ip(&format!("-n {p}n{n} link set eth0 up"))?;
            // Discovery speaks to a group of many.
            ip(&format!("-n {p}n{n} route add 224.0.0.0/4 dev eth0"))?;
            ip(&format!("-n {p}b link set port{n} master br0 up"))?;
        }
        Ok(())
    }

    pub(super) fn cut(&self, node: usize, cut: bool) {
        let state = if cut { "down" } else { "up" };
        ip(&format!("-n {}b link set port{node} {state}", self.prefix)).expect("the link is there");
    }

    /// Puts a small file system of its own in a folder.
    pub(super) fn small_disk(&mut self, folder: &Path) {
        run("mount", &["-t", "tmpfs", "-o", "size=32m", "tmpfs", &folder.to_string_lossy()]).expect("root may mount");
        self.disks.push(folder.to_owned());
    }

    pub(super) fn limit(&self, node: usize, rate: &str) {
        let line =
            format!("-n {}b qdisc add dev port{node} root tbf rate {rate} burst 16kb latency 200ms", self.prefix);
        run("tc", &line.split(' ').collect::<Vec<_>>()).expect("a rate limit can be set");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for disk in &self.disks {
            let _ = run("umount", &["--lazy", &disk.to_string_lossy()]);
        }
        for n in 0..self.nodes {
            let _ = ip(&format!("netns del {}n{n}", self.prefix));
        }
        let _ = ip(&format!("netns del {}b", self.prefix));
    }
}
