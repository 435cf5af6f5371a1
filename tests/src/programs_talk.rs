// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two `openssl` programs in conversation, and what they said.

use std::fs;

use crate::{
    programs::{Evidence, Lab, Outcome, Program, Running, Side, count},
    programs_fixture::{Identity, identity},
    traffic::Line,
};

/// (options for both programs, part of the cipher's name)
pub const SUITES: [(&str, &str); 8] = [
    ("-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "128"),
    ("-tls1_2 -cipher ECDHE-ECDSA-AES256-GCM-SHA384", "256"),
    ("-tls1_2 -cipher ECDHE-ECDSA-CHACHA20-POLY1305", "CHACHA20"),
    ("-tls1_2 -cipher ECDHE-ECDSA-AES128-CCM", "CCM"),
    ("-tls1_3 -ciphersuites TLS_AES_128_GCM_SHA256", "128"),
    ("-tls1_3 -ciphersuites TLS_AES_256_GCM_SHA384", "256"),
    (
        "-tls1_3 -ciphersuites TLS_CHACHA20_POLY1305_SHA256",
        "CHACHA20",
    ),
    ("-tls1_3 -ciphersuites TLS_AES_128_CCM_SHA256", "CCM"),
];
pub const OLD: &str = SUITES[1].0;
pub const NEW: &str = SUITES[4].0;

pub fn s_server(lab: &Lab, side: Side, port: u16, options: &str) -> Program {
    let Identity { cert, key } = identity();
    lab.program(side, "/usr/bin/openssl")
        .args(&format!(
            "s_server -accept 127.0.0.1:{port} -cert {} -key {}",
            cert.display(),
            key.display()
        ))
        .args(options)
        .interactive()
}

pub fn s_client(lab: &Lab, side: Side, port: u16, options: &str) -> Program {
    lab.program(side, "/usr/bin/openssl")
        .args(&format!(
            "s_client -connect 127.0.0.1:{port} -CAfile {}",
            identity().cert.display()
        ))
        .args(options)
        .interactive()
}

/// A server and a client in conversation.
pub struct Talk {
    pub server: Running,
    pub client: Running,
    said: usize,
}

impl Talk {
    pub fn open(
        lab: &Lab,
        server: Side,
        client: Side,
        options: &str,
        more_server: &str,
        more_client: &str,
    ) -> Talk {
        let more = [more_server, more_client];
        Talk::by_way_of(lab, [server, client], options, more, |port| port)
    }

    /// `way` gets the server's port and says which one the client is to use.
    pub fn by_way_of(
        lab: &Lab,
        [server, client]: [Side; 2],
        options: &str,
        [more_server, more_client]: [&str; 2],
        way: impl FnOnce(u16) -> u16,
    ) -> Talk {
        let port = lab.port();
        let server = s_server(
            lab,
            server,
            port,
            &format!("-naccept 1 {options} {more_server}"),
        )
        .start()
        .listening(port);
        let port = way(port);
        let client = s_client(lab, client, port, &format!("{options} {more_client}")).start();
        Talk {
            server,
            client,
            said: 0,
        }
    }

    /// One line each way, and it must arrive before anything else happens.
    pub fn hello(&mut self) {
        self.said += 1;
        let line = format!("hello {} from the client", self.said);
        self.client.say(&format!("{line}\n"));
        self.server.expect_out(&line);
        let line = format!("hello {} from the server", self.said);
        self.server.say(&format!("{line}\n"));
        self.client.expect_out(&line);
    }

    pub fn hellos(&mut self, n: usize) {
        (0..n).for_each(|_| self.hello());
    }

    /// A command to the client, which says on stderr that it has begun.
    pub fn client_does(&mut self, command: &str, says: &str) {
        let file = self.client.err.clone();
        let before = count(&fs::read(&file).unwrap_or_default(), says.as_bytes());
        self.client.say_alone(&format!("{command}\n"));
        self.client.expect(&file, says, before + 1);
    }

    pub fn finish(self) -> (Vec<String>, Evidence) {
        let (client, server) = (self.client.wait(), self.server.wait());
        let mut transcript = said(&client, "client");
        transcript.extend(said(&server, "server"));
        (
            transcript,
            Evidence {
                server: server.log,
                client: client.log,
            },
        )
    }
}

/// What a program said that does not differ by itself from run to run.
pub fn said(outcome: &Outcome, who: &str) -> Vec<String> {
    let mut all = vec![format!("{who} ends with {}", outcome.status)];
    let keep = |line: &&str| {
        [
            "hello ",
            "error:",
            "KEYUPDATE",
            "RENEGOTIATING",
            "DONE",
            "closed",
            "CLOSED",
            "Reused,",
            "New,",
            "ERROR",
            "verify",
            "Verif",
            "early data",
            "Early data",
            "SSL_do_handshake",
            "drop connection",
            "shutting down",
            "Secure Renegotiation",
        ]
        .iter()
        .any(|word| line.contains(word))
    };
    for (stream, text) in [("out", outcome.text()), ("err", outcome.errors())] {
        for line in text.lines().filter(keep) {
            // In front of an error stands the thread's id; a line of the peer
            // may land in the middle of a session's dump.
            let line = ["error:", "hello "]
                .iter()
                .find_map(|word| line.find(word))
                .map_or(line, |at| &line[at..]);
            all.push(format!("{who} {stream}: {line}"));
        }
    }
    // s_server prints these by stdio, the rest by a BIO: their place among the
    // others is chance, their number is not.
    all.sort_by_key(|line| line.contains("SSL_do_handshake"));
    all
}

/// The shimmed sides' lines, of which there must be one per connection.
pub fn shimmed(mix: (Side, Side), evidence: &Evidence, connections: usize) -> Vec<&Line> {
    let count = |side, lines: &[Line]| {
        assert_eq!(
            lines.len(),
            if side == Side::Shim { connections } else { 0 },
            "{lines:#?}"
        )
    };
    count(mix.0, &evidence.server);
    count(mix.1, &evidence.client);
    evidence.server.iter().chain(&evidence.client).collect()
}

pub fn shims(mix: (Side, Side)) -> i64 {
    i64::from(mix.0 == Side::Shim) + i64::from(mix.1 == Side::Shim)
}
