//! What the shim was told of a connection's keys, and what it derived.
//!
//! TLS 1.3 secrets come from the keylog callback, the TLS 1.2 master secret from
//! the session. Handshake secrets are wiped when both directions are settled;
//! traffic secrets stay as long as a KeyUpdate may need them; the TLS 1.2 master
//! secret is never kept.

use crate::backend::Dir;
use crate::keys::{self, Label, Suite, Traffic, TrafficKeys};
use crate::openssl::crypto;

/// One endpoint's secrets.
struct Side {
    handshake: Option<Traffic>,
    traffic: Option<Traffic>,
    generation: u32,
}

impl Side {
    const fn new() -> Self {
        Self {
            handshake: None,
            traffic: None,
            generation: 0,
        }
    }
}

pub struct Secrets {
    client: Side,
    server: Side,
    pub suite: Option<Suite>,
    /// Keys in use by a direction that the kernel has.
    pub rx: Option<TrafficKeys>,
    pub tx: Option<TrafficKeys>,
}

impl Secrets {
    pub const fn new() -> Self {
        Self {
            client: Side::new(),
            server: Side::new(),
            suite: None,
            rx: None,
            tx: None,
        }
    }

    pub fn wipe(&mut self) {
        *self = Self::new();
    }

    /// A new handshake begins on this SSL.
    pub fn wipe_handshake(&mut self) {
        self.client.handshake = None;
        self.server.handshake = None;
    }

    /// Takes one line of the keylog. A side that the kernel serves has moved to the next
    /// generation by its own derivation, when the KeyUpdate crossed; the line comes later
    /// and without a number, so it says nothing new.
    pub fn learn(&mut self, label: Label, secret: Traffic, kernel: impl Fn(bool) -> bool) {
        let (is_server, generation) = match label {
            Label::ClientHandshake => {
                self.client.handshake = Some(secret);
                return;
            }
            Label::ServerHandshake => {
                self.server.handshake = Some(secret);
                return;
            }
            // `None` is "the next one", as 3.0 and later write it.
            Label::ClientTraffic(n) => (false, n),
            Label::ServerTraffic(n) => (true, n),
            _ => return,
        };
        let side = if is_server {
            &mut self.server
        } else {
            &mut self.client
        };
        if !kernel(is_server) {
            side.generation = generation.unwrap_or(side.generation.saturating_add(1));
            side.traffic = Some(secret);
        }
    }

    fn side(&self, server: bool, dir: Dir) -> &Side {
        // The client's keys protect what a client sends and a server receives.
        if server == matches!(dir, Dir::Tx) {
            &self.server
        } else {
            &self.client
        }
    }

    fn side_mut(&mut self, server: bool, dir: Dir) -> &mut Side {
        if server == matches!(dir, Dir::Tx) {
            &mut self.server
        } else {
            &mut self.client
        }
    }

    pub fn generation(&self, server: bool, dir: Dir) -> u32 {
        self.side(server, dir).generation
    }

    /// TLS 1.3 keys of the current generation.
    pub fn keys13(
        &self,
        crypto: &crypto::Table,
        suite: Suite,
        server: bool,
        dir: Dir,
    ) -> Option<TrafficKeys> {
        keys::traffic::tls13(
            crypto,
            suite,
            self.side(server, dir).traffic.as_ref()?.as_slice(),
        )
    }

    /// TLS 1.3 keys that protected the handshake messages of this direction.
    pub fn handshake13(
        &self,
        crypto: &crypto::Table,
        suite: Suite,
        server: bool,
        dir: Dir,
    ) -> Option<TrafficKeys> {
        keys::traffic::tls13(
            crypto,
            suite,
            self.side(server, dir).handshake.as_ref()?.as_slice(),
        )
    }

    /// Steps to generation N+1 (RFC 8446 §7.2) and returns its keys.
    pub fn advance13(
        &mut self,
        crypto: &crypto::Table,
        server: bool,
        dir: Dir,
    ) -> Option<TrafficKeys> {
        let suite = self.suite?;
        let side = self.side_mut(server, dir);
        let next = keys::traffic::next13(crypto, suite.hash, side.traffic.as_ref()?.as_slice())?;
        let keys = keys::traffic::tls13(crypto, suite, next.as_slice())?;
        side.traffic = Some(next);
        side.generation = side.generation.saturating_add(1);
        Some(keys)
    }

    pub fn in_use(&mut self, dir: Dir) -> &mut Option<TrafficKeys> {
        match dir {
            Dir::Rx => &mut self.rx,
            Dir::Tx => &mut self.tx,
        }
    }
}
