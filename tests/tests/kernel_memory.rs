// SPDX-License-Identifier: MIT OR Apache-2.0
//! A memory cgroup that has no room for what its socket holds, and a machine whose TCP has used up its
//! share: TCP is refused memory, drops what comes and shrinks what may go. Nothing is lost or cut, and
//! all goes on when there is memory again.
//!
//! Only a socket is in the cgroup, and no process, so nobody is killed for it.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ktlsshim_tests::peer::DATA;
use ktlsshim_tests::*;

const MOUNT: &str = "/run/memory-cgroup";
const LIMIT: Duration = Duration::from_secs(180);

/// A cgroup; nobody is in it for longer than it takes to make a socket.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new(name: &str) -> Cgroup {
        if fs::create_dir(MOUNT).is_ok() {
            veth::run(&format!("mount -t cgroup2 none {MOUNT}"));
            fs::write(format!("{MOUNT}/cgroup.subtree_control"), "+memory").expect("+memory");
        }
        let path = PathBuf::from(MOUNT).join(name);
        fs::create_dir(&path).expect("cgroup");
        Cgroup(path)
    }

    fn within<T>(&self, call: impl FnOnce() -> T) -> T {
        let enter = |dir: &PathBuf| fs::write(dir.join("cgroup.procs"), "0").expect("enter");
        enter(&self.0);
        let value = call();
        enter(&PathBuf::from(MOUNT));
        value
    }

    fn get(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.0.join(name)).expect("a file of the cgroup");
        text.trim().parse().expect("a number")
    }

    fn set(&self, name: &str, value: &str) {
        fs::write(self.0.join(name), value).unwrap_or_else(|e| panic!("{name} = {value}: {e}"));
    }

    /// How often the limit was met.
    fn events(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.0.join("memory.events")).expect("events");
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.expect("an event").parse().expect("a number")
    }

    /// `spare` bytes more than there are now.
    fn leave(&self, limit: &str, spare: u64) {
        let now = self.get("memory.current");
        self.set(limit, &(now + spare).to_string());
    }
}

/// The near end's socket is charged to the cgroup, the far end's to nobody.
fn pair(group: &Cgroup) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let to = listener.local_addr().expect("address");
    let near = group.within(|| TcpStream::connect(to).expect("connect"));
    (near, listener.accept().expect("accept").0)
}

/// Data both ways; `relief` runs beside it and ends the shortage.
fn carries(mut link: Link, relief: impl FnOnce() + Send) {
    let data = pattern(1_000_000);
    std::thread::scope(|scope| {
        let (op, bytes) = (Arc::clone(&link.op), &data);
        scope.spawn(move || op.send_all(bytes));
        let (op, bytes) = (Arc::clone(&link.op), &data);
        scope.spawn(move || assert!(op.recv_exact(bytes.len()) == *bytes, "bytes differ"));
        let mut tcp = link.peer.tcp.try_clone().expect("dup");
        let mut wire = Vec::new();
        for (n, piece) in data.chunks(13_000).enumerate() {
            // Long records and short ones: both wait on the queue.
            for part in piece.chunks(if n % 2 == 0 { 13_000 } else { 800 }) {
                wire.extend(link.peer.tx.seal(DATA, part, 0));
            }
        }
        scope.spawn(move || std::io::Write::write_all(&mut tcp, &wire).expect("write"));
        scope.spawn(relief);
        let mut have = 0;
        while have < data.len() {
            let record = link.peer.recv().expect("a whole record in sequence");
            assert!(data[have..].starts_with(&record.data), "differs at {have}");
            have += record.data.len();
        }
    });
    link.check();
}

#[test]
fn a_cgroup_at_its_limit_loses_nothing() {
    in_vm_for(LIMIT, || {
        for (version, cipher) in FORMS {
            let group = Cgroup::new(&format!("max-{version:?}"));
            let mut link = Link::over(pair(&group), version, cipher);
            link.check();
            group.leave("memory.max", 48 << 10);
            carries(link, || {
                let met = eventually(|| group.events("max") > 3);
                assert!(met, "the limit was never met");
                // Not for long: the kernel writes pages about each time into its log.
                std::thread::sleep(ms(150));
                group.set("memory.max", "max");
            });
        }
    });
}

/// The whole machine's, by `net.ipv4.tcp_mem`: both ends suffer.
#[test]
fn tcp_without_memory_loses_nothing() {
    const TCP_MEM: &str = "/proc/sys/net/ipv4/tcp_mem";
    in_vm_for(LIMIT, || {
        for (version, cipher) in FORMS {
            let mut link = Link::new(version, cipher);
            link.check();
            let before = fs::read_to_string(TCP_MEM).expect("tcp_mem");
            let pressure = || veth::counter("netstat", "TcpExt", "TCPMemoryPressures");
            let met = pressure();
            fs::write(TCP_MEM, "2 4 8").expect("tcp_mem");
            carries(link, || {
                let under = eventually(|| pressure() > met);
                std::thread::sleep(ms(1500));
                fs::write(TCP_MEM, before).expect("tcp_mem");
                assert!(under, "there was no pressure");
            });
        }
    });
}

/// A connection that can hold no record any more can still be closed, and gives all its memory back.
#[test]
fn an_op_is_closed_while_its_cgroup_is_full() {
    in_vm_for(LIMIT, || {
        let group = Cgroup::new("close");
        for _ in 0..2 {
            let mut link = Link::over(pair(&group), Version::Tls13, Cipher::Aes128Gcm);
            link.check();
            group.leave("memory.max", 32 << 10);
            let wire = link.peer.tx.seal(DATA, &pattern(16_000), 0);
            // Part of a record is on the queue, and perhaps staged; more is refused.
            link.peer.raw(&wire[..9_000]);
            assert_eq!(link.op.take(10, libc::MSG_DONTWAIT), fail(libc::EAGAIN));
            let sent = link.op.send(&pattern(300_000), libc::MSG_DONTWAIT);
            assert!(sent.is_ok() || sent == fail(libc::EAGAIN), "{sent:?}");
            drop(link);
            group.set("memory.max", "max");
        }
        let back = eventually(|| group.get("memory.current") < 2 << 20);
        assert!(back, "{} bytes are left", group.get("memory.current"));
    });
}
