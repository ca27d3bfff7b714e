//! The program as a process, with the folder it lives in.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::{PATIENCE, eventually, until};

/// The program; killed at the latest when the test ends.
pub struct Program {
    child: Option<Child>,
    folder: TempDir,
}

impl Program {
    /// Runs with this configuration, in which `$` is the folder, until it answers.
    pub fn start(config: &str) -> Self {
        let mut program = Self::stopped(config);
        program.run();
        eventually("the program answers", || {
            program.assert_runs();
            UnixStream::connect(program.path("admin")).is_ok()
                && (!config.contains("[inject]") || UnixStream::connect(program.path("api")).is_ok())
        });
        program
    }

    /// A folder with the configuration, and nothing that runs.
    pub fn stopped(config: &str) -> Self {
        let program = Self { child: None, folder: tempfile::tempdir().unwrap() };
        program.configure(config);
        program
    }

    /// Writes another configuration.
    pub fn configure(&self, config: &str) {
        let folder = self.folder.path().to_str().unwrap();
        std::fs::write(self.file(), config.replace('$', folder)).unwrap();
    }

    /// Runs what is configured, once more.
    pub fn run(&mut self) {
        let mut command = binary();
        command.arg("run").arg("--config").arg(self.file()).stdout(Stdio::null());
        command.stderr(std::fs::File::options().append(true).create(true).open(self.path("log")).unwrap());
        self.child = Some(command.spawn().unwrap());
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks for another look at the configuration, as an operator's `kill -HUP` does.
    pub fn hang_up(&self) {
        let pid = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP).unwrap();
    }

    /// Fails with what the program said, if it has ended.
    pub fn assert_runs(&mut self) {
        let ended = self.child.as_mut().unwrap().try_wait().unwrap();
        assert_eq!(ended, None, "the program ended: {}", self.log());
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// A file of its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("speaker.toml")
    }

    /// A further command of the program, at the socket of this name.
    pub fn command(&self, words: &[&str], socket: &str) -> Output {
        binary().args(words).arg("--socket").arg(self.path(socket)).output().unwrap()
    }

    /// One question at a socket, and its answer.
    pub fn ask(&self, socket: &str, line: &str) -> Value {
        Api::connect(&self.path(socket)).line(line)
    }

    /// What it shows of a topic.
    pub fn show(&self, topic: &str) -> Value {
        self.ask("admin", &format!(r#"{{"topic":"{topic}"}}"#))["ok"].clone()
    }

    /// Its sessions.
    pub fn sessions(&self) -> Vec<Value> {
        self.show("sessions").as_array().unwrap().clone()
    }

    /// Its session with the peer of this name.
    pub fn session(&self, peer: &str) -> Value {
        let sessions = self.sessions();
        sessions.into_iter().find(|row| row["peer"] == peer).unwrap_or_else(|| panic!("no session with {peer}"))
    }

    /// Waits until the session with this peer stands.
    pub fn established(&self, peer: &str) -> Value {
        until(&format!("{peer} is Established"), || {
            let row = self.session(peer);
            (row["state"] == "Established").then_some(row)
        })
    }

    /// A client of the API.
    pub fn api(&self) -> Api {
        until("the API", || UnixStream::connect(self.path("api")).ok()).into()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill();
        }
    }
}

/// The program, for a command line; another build of it by `BGP_SPEAKER=…`.
pub fn binary() -> Command {
    let built = || env!("CARGO_BIN_EXE_bgp-speaker").into();
    Command::new(std::env::var_os("BGP_SPEAKER").unwrap_or_else(built))
}

/// A client of one of the program's sockets.
pub struct Api {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl From<UnixStream> for Api {
    fn from(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { lines: BufReader::with_capacity(1 << 16, stream.try_clone().unwrap()), stream }
    }
}

impl Api {
    /// A connection to the socket at `path`.
    pub fn connect(path: &Path) -> Self {
        UnixStream::connect(path).unwrap().into()
    }

    /// Sends this, as it is.
    pub fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).unwrap();
    }

    /// The next line; empty at the end.
    pub fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    /// The next answer.
    pub fn answer(&mut self) -> Value {
        let line = self.read_line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The answer that had come before the program was killed, if a whole one had.
    pub fn left(&mut self) -> Option<Value> {
        let mut line = String::new();
        // What was cut off is no answer, and the connection may have been reset.
        let _ = self.lines.read_line(&mut line);
        line.strip_suffix('\n').map(|line| serde_json::from_str(line).unwrap())
    }

    /// Sends a line, and gives the answer.
    pub fn line(&mut self, line: &str) -> Value {
        self.send(&format!("{line}\n"));
        self.answer()
    }

    /// Asks, and gives the answer.
    pub fn ask(&mut self, request: &Value) -> Value {
        self.line(&request.to_string())
    }

    /// Asks for something that must be done.
    pub fn done(&mut self, line: &str) -> Value {
        let answer = self.line(line);
        assert!(answer.get("ok").is_some(), "{answer}");
        answer["ok"].clone()
    }
}
