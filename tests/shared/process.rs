//! A child process whose output is read as it arrives, that never outlives its test, and whose output is shown if the
//! test fails.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// How long a program may take to start, or to print the next expected line.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(30);

/// A running program.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: mpsc::Receiver<String>,
    transcript: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a program. Its stdin stays open until it is dropped.
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let transcript = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("stdout is piped");
        let stderr = child.stderr.take().expect("stderr is piped");
        let readers = vec![
            // The receiver may be gone; the transcript still has the line.
            read_lines(stdout, &transcript, move |line| drop(sender.send(line))),
            read_lines(stderr, &transcript, drop),
        ];
        Self { name: name.into(), child, lines, transcript, readers }
    }

    /// The rest of the next line on stdout that starts with `prefix`; other lines are skipped.
    pub(crate) fn line_after(&self, prefix: &str, deadline: Duration) -> String {
        let end = Instant::now() + deadline;
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|error| panic!("{} did not print {prefix:?}: {error}", self.name));
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.into();
            }
        }
    }

    /// Its process id, for signals.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it exits by itself, and returns its exit code; `None` if a signal killed it.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("it is our child").code()
    }

    /// Closes its stdin, which stops the programs; returns everything they have printed.
    pub(crate) fn end(&mut self) -> String {
        drop(self.child.stdin.take());
        self.wait();
        self.transcript.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kills it, unless it has already exited.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.wait();
    }

    fn wait(&mut self) {
        self.child.wait().ok();
        for reader in self.readers.drain(..) {
            reader.join().ok();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            let transcript = self.transcript.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("--- {} wrote:\n{transcript}", self.name);
        }
    }
}

fn read_lines(
    from: impl Read + Send + 'static,
    transcript: &Arc<Mutex<String>>,
    each: impl Fn(String) + Send + 'static,
) -> JoinHandle<()> {
    let transcript = Arc::clone(transcript);
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut transcript = transcript.lock().unwrap_or_else(PoisonError::into_inner);
            transcript.push_str(&line);
            transcript.push('\n');
            drop(transcript);
            each(line);
        }
    })
}
