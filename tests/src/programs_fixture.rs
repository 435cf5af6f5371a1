// SPDX-License-Identifier: MIT OR Apache-2.0
//! Certificates, files and servers that the program tests share.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock, PoisonError},
};

use crate::programs::{Lab, Program, Running, Side};

/// A self-signed certificate and its key, for servers and for clients.
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// One pair per test process: an elliptic key, because a slow machine makes
/// hundreds of handshakes with it.
pub fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| make_identity("localhost"))
}

/// A second one, which no server trusts.
pub fn stranger() -> &'static Identity {
    static STRANGER: OnceLock<Identity> = OnceLock::new();
    STRANGER.get_or_init(|| make_identity("stranger"))
}

fn make_identity(name: &str) -> Identity {
    let base = std::env::temp_dir().join(format!("ktlsshim-{name}-{}", std::process::id()));
    let (cert, key) = (base.with_extension("crt"), base.with_extension("key"));
    let made = Command::new("/usr/bin/openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650".split(' '))
        .args([
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ])
        .arg("-out")
        .arg(&cert)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl req");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    // Servers under test drop their privileges before they read it.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&key, mode).expect("chmod");
    Identity { cert, key }
}

/// `len` bytes without repetition, the same for the same length. They are made
/// once: tests are built without optimisation and run on slow machines.
pub fn noise(len: usize) -> Vec<u8> {
    static MADE: Mutex<BTreeMap<usize, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(len).or_insert_with(|| make_noise(len)).clone()
}

fn make_noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The same as digits and a–f in lines, for programs that take some letters
/// at the start of their input for commands.
pub fn hex_noise(len: usize) -> Vec<u8> {
    let digit = |byte: u8| b"0123456789abcdef"[usize::from(byte & 15)];
    let mut text: Vec<u8> = noise(len).into_iter().map(digit).collect();
    text.iter_mut()
        .skip(79)
        .step_by(80)
        .for_each(|byte| *byte = b'\n');
    text
}

/// Sizes round the record's border, and some bulk.
pub const SIZES: [usize; 6] = [0, 1, 16_383, 16_384, 16_385, 1 << 20];

/// Files named by their length in `<lab>/www`.
pub fn files(lab: &Lab, sizes: &[usize]) -> PathBuf {
    let root = lab.path("www");
    fs::create_dir_all(&root).expect("www");
    for &size in sizes {
        let path = root.join(size.to_string());
        if !path.exists() {
            fs::write(path, noise(size)).expect("a file");
        }
    }
    root
}

/// nginx with one TLS port and one clear-text port.
pub struct Nginx {
    pub running: Running,
    pub port: u16,
    pub clear: u16,
}

impl Nginx {
    pub fn url(&self, name: impl std::fmt::Display) -> String {
        format!("https://localhost:{}/{name}", self.port)
    }
}

/// Starts nginx with one worker that has dropped its privileges.
///
/// * `/NAME` serves `www/NAME`; `PUT /up/NAME` stores into `up/NAME`
/// * `POST /post` keeps the body in `bodies/` (by way of the clear-text port)
pub fn nginx(lab: &Lab, side: Side) -> Nginx {
    nginx_by(lab, lab.program(side, "/usr/sbin/nginx"))
}

/// The same by a program that is or runs nginx and takes its arguments.
pub fn nginx_by(lab: &Lab, program: Program) -> Nginx {
    let (port, clear) = (lab.port(), lab.port());
    let conf = lab.path(&format!("nginx-{port}.conf"));
    let dir = lab.dir.display();
    for name in ["up", "bodies", "www"] {
        let path = lab.path(name);
        fs::create_dir_all(&path).expect("a directory of nginx");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(&path, mode).expect("chmod");
    }
    let Identity { cert, key } = identity();
    let text = format!(
        "daemon off; master_process on; worker_processes 1; user nobody nogroup;\n\
         pid {dir}/nginx-{port}.pid; error_log {dir}/nginx-{port}.error notice;\n\
         worker_rlimit_nofile 4096; events {{ worker_connections 1024; }}\n\
         http {{ access_log off; sendfile on; keepalive_requests 100000; keepalive_timeout 600s; client_header_timeout 600s; server_tokens off;\n\
         client_body_temp_path {dir}/bodies; proxy_temp_path {dir}/proxy-{port};\n\
         fastcgi_temp_path {dir}/x1-{port}; uwsgi_temp_path {dir}/x2-{port}; scgi_temp_path {dir}/x3-{port};\n\
         client_max_body_size 0;\n\
         server {{ listen 127.0.0.1:{clear}; location / {{ return 200 \"stored\\n\"; }} }}\n\
         server {{ listen 127.0.0.1:{port} ssl; root {dir}/www;\n\
         ssl_certificate {}; ssl_certificate_key {}; ssl_protocols TLSv1.2 TLSv1.3;\n\
         ssl_ciphers ALL:@SECLEVEL=0;\n\
         location /up/ {{ root {dir}; dav_methods PUT; }}\n\
         location = /post {{ client_body_in_file_only on; proxy_pass http://127.0.0.1:{clear}; }}\n\
         }} }}\n",
        cert.display(),
        key.display()
    );
    fs::write(&conf, text).expect("nginx.conf");
    let running = program
        .arg("-c")
        .arg(&conf)
        .arg("-p")
        .arg(&lab.dir)
        .start()
        .listening(port);
    Nginx {
        running,
        port,
        clear,
    }
}

impl Nginx {
    /// The worker's process id.
    pub fn worker(&self) -> u32 {
        let path = format!("/proc/{0}/task/{0}/children", self.running.pid());
        let children = fs::read_to_string(path).expect("the master's children");
        children
            .split_whitespace()
            .next()
            .expect("a worker")
            .parse()
            .expect("a process id")
    }

    /// Processor time that the worker has used, in ticks of 10 ms.
    pub fn worker_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.worker())).expect("stat");
        // The name, in parentheses, may hold spaces; utime and stime are the 12th and 13th after it.
        let (_, fields) = stat.rsplit_once(") ").expect("a name");
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks.map(|n| n.parse::<u64>().expect("ticks")).sum()
    }

    /// Ends nginx the polite way: connections are closed one by one.
    pub fn stop(self) -> crate::programs::Outcome {
        self.running.stop(libc::SIGQUIT)
    }
}

/// A script of `tests/programs`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(name)
}
