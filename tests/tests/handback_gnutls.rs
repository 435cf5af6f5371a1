// SPDX-License-Identifier: MIT OR Apache-2.0
//! An OpenSSL program under the shim and a GnuTLS program that has never heard of it: new keys, new
//! handshakes, data both ways, both kinds of ending, each side as server.

mod handback;

use std::fs;

use handback::{
    TAIL, re_keyed, renegotiated,
    tap::{Record, Tap},
};
use ktlsshim_tests::{
    programs::{Evidence, Lab, Outcome, Program, Running, Side},
    programs_fixture::{Identity, identity},
    programs_talk::{s_client, s_server, said},
};

const OLD: (&str, &str) = ("-tls1_2", "NORMAL:-VERS-ALL:+VERS-TLS1.2");
const NEW: (&str, &str) = ("-tls1_3", "NORMAL:-VERS-ALL:+VERS-TLS1.3");

/// GnuTLS' names for ciphers that the kernel has; the rest of a priority string.
const CIPHERS: [&str; 2] = ["-CIPHER-ALL:+AES-128-GCM", "-CIPHER-ALL:+CHACHA20-POLY1305"];

const SERVER: [(Side, Side); 1] = [(Side::Shim, Side::Plain)];
const CLIENT: [(Side, Side); 1] = [(Side::Plain, Side::Shim)];

fn gnutls_cli(lab: &Lab, port: u16, priority: &str) -> Program {
    let ca = identity().cert.display();
    lab.program(Side::Plain, "/usr/bin/gnutls-cli")
        .args(&format!(
            "--port {port} --x509cafile {ca} --priority {priority} --inline-commands localhost"
        ))
        .interactive()
}

fn gnutls_serv(lab: &Lab, port: u16, priority: &str) -> Program {
    let Identity { cert, key } = identity();
    lab.program(Side::Plain, "/usr/bin/gnutls-serv")
        .args(&format!(
            "--echo --port {port} --x509certfile {} --x509keyfile {} --priority {priority}",
            cert.display(),
            key.display()
        ))
}

/// What GnuTLS' client says about the connection.
fn remarks(outcome: &Outcome) -> Vec<String> {
    let text = outcome.text();
    let keep =
        |l: &&str| l.starts_with("hello ") || l.contains("completed") || l.contains("closed");
    let lines = text.lines().filter(keep);
    let mut all = vec![format!("gnutls-cli ends with {}", outcome.status)];
    all.extend(lines.map(str::to_owned));
    all
}

/// A line each way between two programs that pass on what they read.
fn hello(client: &mut Running, server: &mut Running, n: usize) {
    let line = format!("hello {n} from the client");
    client.say(&format!("{line}\n"));
    server.expect_out(&line);
    let line = format!("hello {n} from the server");
    server.say(&format!("{line}\n"));
    client.expect_out(&line);
}

/// `openssl s_server` and gnutls-cli over a tap; `act` is between the first lines and the last.
fn serve(
    lab: &Lab,
    side: Side,
    (option, priority): (&str, &str),
    record: &Record,
    act: impl FnOnce(&mut Running, &mut Running),
) -> (Vec<String>, Evidence) {
    let port = lab.port();
    let keys = lab.path("server.keys");
    let _ = fs::remove_file(&keys);
    let options = format!(
        "-naccept 1 {option} -client_renegotiation -keylogfile {}",
        keys.display()
    );
    let mut server = s_server(lab, side, port, &options).start().listening(port);
    let tap = Tap::new(port);
    let mut client = gnutls_cli(lab, tap.port, priority).start();
    client.expect_out("Simple Client Mode");
    (1..3).for_each(|n| hello(&mut client, &mut server, n));
    act(&mut client, &mut server);
    (10..10 + TAIL).for_each(|n| hello(&mut client, &mut server, n));
    // The server closes, the client answers.
    server.say("Q\n");
    let (server, client) = (server.wait(), client.wait());
    record.keep(tap.end(), &keys);
    let mut all = remarks(&client);
    all.extend(said(&server, "server"));
    let evidence = Evidence {
        server: server.log,
        client: client.log,
    };
    (all, evidence)
}

/// gnutls-serv, which echoes, and `openssl s_client`, which closes.
fn call(
    lab: &Lab,
    side: Side,
    (option, priority): (&str, &str),
    record: &Record,
    act: impl FnOnce(&mut Running),
) -> (Vec<String>, Evidence) {
    let port = lab.port();
    let keys = lab.path("client.keys");
    let _ = fs::remove_file(&keys);
    let server = gnutls_serv(lab, port, priority).start().listening(port);
    let tap = Tap::new(port);
    let options = format!("{option} -keylogfile {}", keys.display());
    let mut client = s_client(lab, side, tap.port, &options).start();
    (1..3).for_each(|n| echo(&mut client, n));
    act(&mut client);
    (10..10 + TAIL).for_each(|n| echo(&mut client, n));
    client.say("Q\n");
    let client = client.wait();
    drop(server);
    record.keep(tap.end(), &keys);
    let evidence = Evidence {
        server: Vec::new(),
        client: client.log.clone(),
    };
    let mut all = said(&client, "client");
    // Chance: a signature's length (-msg), and when a ticket comes, whose dump has the indented line.
    all.retain(|l| !l.contains("CertificateVerify") && !l.contains("    Verify return code"));
    (all, evidence)
}

fn echo(client: &mut Running, n: usize) {
    let line = format!("hello {n} and back");
    client.say(&format!("{line}\n"));
    client.expect_out(&line);
}

#[test]
fn key_updates_of_a_gnutls_client() {
    let lab = Lab::new("gnutls-ku-c");
    let record = Record::default();
    for cipher in CIPHERS {
        let suite = (NEW.0, format!("{}:{cipher}", NEW.1));
        lab.differ(
            &SERVER,
            |server, _| {
                let suite = (suite.0, suite.1.as_str());
                serve(&lab, server, suite, &record, |client, server| {
                    let printed = client.out.clone();
                    // The first asks for an answer, the second does not.
                    for (n, command) in ["^rekey^", "^rekey1^"].into_iter().enumerate() {
                        client.say(&format!("{command}\n"));
                        client.expect(&printed, "Rekey was completed", n + 1);
                        hello(client, server, 3 + n);
                    }
                    // And the other way.
                    for (n, command) in ["k", "K"].into_iter().enumerate() {
                        server.say_alone(&format!("{command}\n"));
                        hello(client, server, 5 + n);
                    }
                })
            },
            |mix, evidence, kernel| {
                // Two of its own each, and an answer to the one in which the other asked.
                re_keyed(&record.found(mix, evidence, kernel), 3, 3);
            },
        );
    }
}

#[test]
fn key_updates_to_a_gnutls_server() {
    let lab = Lab::new("gnutls-ku-s");
    let record = Record::default();
    for cipher in CIPHERS {
        let suite = (NEW.0, format!("{}:{cipher}", NEW.1));
        lab.differ(
            &CLIENT,
            |_, client| {
                let suite = (suite.0, suite.1.as_str());
                call(&lab, client, suite, &record, |client| {
                    for (n, command) in ["K", "k", "K"].into_iter().enumerate() {
                        client.say_alone(&format!("{command}\n"));
                        echo(client, 3 + n);
                    }
                })
            },
            |mix, evidence, kernel| re_keyed(&record.found(mix, evidence, kernel), 3, 2),
        );
    }
}

#[test]
fn renegotiation_by_a_gnutls_client() {
    let lab = Lab::new("gnutls-ren-c");
    let record = Record::default();
    for cipher in CIPHERS {
        let suite = (OLD.0, format!("{}:{cipher}", OLD.1));
        lab.differ(
            &SERVER,
            |server, _| {
                let suite = (suite.0, suite.1.as_str());
                serve(&lab, server, suite, &record, |client, server| {
                    let printed = client.out.clone();
                    for n in 0..2 {
                        client.say("^renegotiate^\n");
                        client.expect(&printed, "ReHandshake was completed", n + 1);
                        hello(client, server, 3 + n);
                    }
                })
            },
            |mix, evidence, kernel| renegotiated(&record.found(mix, evidence, kernel), 2),
        );
    }
}

#[test]
fn renegotiation_with_a_gnutls_server() {
    let lab = Lab::new("gnutls-ren-s");
    let record = Record::default();
    for cipher in CIPHERS {
        let suite = (OLD.0, format!("{}:{cipher}", OLD.1));
        lab.differ(
            &CLIENT,
            |_, client| {
                let suite = (suite.0, suite.1.as_str());
                call(&lab, client, suite, &record, |client| {
                    client.say_alone("R\n");
                    echo(client, 3);
                })
            },
            |mix, evidence, kernel| renegotiated(&record.found(mix, evidence, kernel), 1),
        );
    }
}

/// gnutls-serv asks for a certificate when it is sent a certain word (TLS 1.3).
#[test]
fn a_gnutls_server_asks_for_a_certificate() {
    let lab = Lab::new("gnutls-pha");
    let record = Record::default();
    let Identity { cert, key } = identity();
    let shown = format!(
        "{} -msg -enable_pha -cert {} -key {}",
        NEW.0,
        cert.display(),
        key.display()
    );
    lab.differ(
        &CLIENT,
        |_, client| {
            call(&lab, client, (&shown, NEW.1), &record, |client| {
                let printed = client.out.clone();
                for n in 0..2 {
                    client.say_alone("**REAUTH**\n");
                    // gnutls-serv takes no data until it has the answer; two Finished were the handshake's.
                    client.expect(&printed, "], Finished", 3 + n);
                    echo(client, 3 + n);
                }
            })
        },
        |mix, evidence, kernel| {
            let found = record.found(mix, evidence, kernel);
            let (_, line) = found.ends()[0];
            // The requests, and the answers of three messages.
            assert!(
                line.rx.slow_records >= 2 && line.tx.slow_records >= 2,
                "{}",
                found.text()
            );
            re_keyed(&found, 0, 0);
        },
    );
}
