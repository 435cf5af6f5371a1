// SPDX-License-Identifier: MIT OR Apache-2.0
//! The nginx of `cargo xtask bench`, inside the counting machine: one server per cell, dressed as the
//! column demands, asked by tests/bench/fetch.c. In the proxy row a second, plain one stands behind it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench_cells::{Cell, Column};
use crate::bench_guest::{Guest, Outcome, listen};

const FILES: [(&str, usize); 4] = [
    ("1K.bin", 1 << 10),
    ("10K.bin", 10 << 10),
    ("100K.bin", 100 << 10),
    ("16M.bin", 16 << 20),
];

/// Files in memory, readable by the worker, which is www-data.
pub fn files(work: &Path) -> Result<()> {
    let www = work.join("www");
    fs::create_dir_all(&www)?;
    for (name, size) in FILES {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 7 + (i >> 12)) as u8).collect();
        fs::write(www.join(name), bytes)?;
    }
    fs::set_permissions(work, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

struct Nginx {
    pid: PathBuf,
}

impl Nginx {
    /// The master has bound its sockets when the command returns: nobody has to wait by the clock.
    fn start(guest: &Guest, name: &str, server: &str, column: Column) -> Result<Self> {
        let dir = guest.work.join(name);
        fs::create_dir_all(&dir)?;
        let at = dir.display();
        let conf = dir.join("nginx.conf");
        fs::write(
            &conf,
            format!(
                "worker_processes 1;\nuser www-data;\npid {at}/pid;\nerror_log {at}/error.log;\n\
                 events {{ }}\nhttp {{\n\taccess_log off;\n\tsendfile on;\n\
                 \tclient_body_temp_path {at};\n\tproxy_temp_path {at};\n\tfastcgi_temp_path {at};\n\
                 \tuwsgi_temp_path {at};\n\tscgi_temp_path {at};\n\tserver {{\n{server}\t}}\n}}\n"
            ),
        )?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-c").arg(&conf).stdin(Stdio::null());
        guest.dress(&mut nginx, column);
        if !nginx.status().context("nginx")?.success() {
            bail!("nginx does not start");
        }
        let pid = dir.join("pid");
        Ok(Self { pid })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = fs::read_to_string(&self.pid).unwrap_or_default();
        let Ok(pid) = pid.trim().parse() else { return };
        let pid = Pid::from_raw(pid);
        // Its connections count as open until it is gone.
        let mut gone = kill(pid, Signal::SIGTERM).is_err();
        while !gone {
            std::thread::sleep(std::time::Duration::from_millis(1));
            gone = kill(pid, None).is_err();
        }
    }
}

/// The server block of one cell, on `port`.
fn server(guest: &Guest, cell: &Cell, port: u32, more: &str) -> String {
    let work = guest.work.display();
    let option = |name: &str| cell.row.options.split(' ').any(|o| o == name);
    let h2 = if option("row=h2") { " http2" } else { "" };
    let ssl = if cell.column == Column::Tcp {
        ""
    } else {
        " ssl"
    };
    // One request per connection ends an HTTP/2 connection; the others close, or stay, by header.
    let requests = if option("row=h2") { 1 } else { 1_000_000 };
    let version = &cell.tls;
    format!(
        "\t\tlisten 127.0.0.1:{port}{ssl}{h2};\n\t\tkeepalive_requests {requests};\n\
         \t\tssl_protocols TLSv{version};\n\t\tssl_certificate {work}/cert.pem;\n\
         \t\tssl_certificate_key {work}/key.pem;\n\t\tssl_ciphers ALL;\n{more}"
    )
}

pub fn run(guest: &Guest, cell: &Cell, label: u32) -> Result<Outcome> {
    let port = 20000 + 4 * label;
    let root = format!("\t\troot {}/www;\n", guest.work.display());
    let (front, _back) = if cell.row.name == "proxy" {
        let back = server(guest, cell, port + 1, &root);
        let back = Nginx::start(guest, "back", &back, Column::Openssl)?;
        let (scheme, version) = match cell.column {
            Column::Tcp => ("http", String::new()),
            _ => (
                "https",
                format!("\t\tproxy_ssl_protocols TLSv{};\n", cell.tls),
            ),
        };
        let pass = format!(
            "\t\tlocation / {{ proxy_pass {scheme}://127.0.0.1:{}; }}\n",
            port + 1
        );
        (version + &pass, Some(back))
    } else {
        (root, None)
    };
    let front = server(guest, cell, port, &front);
    let _nginx = Nginx::start(guest, "front", &front, cell.column)?;
    let mut fetch = Command::new(guest.work.join("fetch"));
    fetch.args(cell.row.options.split(' '));
    guest.common(&mut fetch, cell, label);
    let mut child = fetch.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let outcome = listen(&mut child, None);
    let status = child.wait()?;
    if !status.success() {
        bail!("fetch: {status}");
    }
    outcome
}
