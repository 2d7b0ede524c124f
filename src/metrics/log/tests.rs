use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use super::*;

/// Text that would start a line, clear a terminal, set its title, or reverse text: for example, as the name of a pod.
const HOSTILE: &str = "pod\n2026-01-01T00:00:00Z  INFO forged\r\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{85}\u{2028}\u{2029}\
                       \u{202e}\u{2066}\u{200f}\u{61c}\u{7f}\u{8}\t\u{b}\u{c}\u{0}";

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log in this format after some events.
fn logged(form: Form, events: impl FnOnce()) -> String {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    tracing::dispatcher::with_default(&lines(form, EnvFilter::new("debug"), move || writer.clone()), events);
    let bytes = buffer.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Each way for text to get into a line.
fn hostile_events() {
    let error = io::Error::other(HOSTILE);
    tracing::info!(endpoint = %HOSTILE, "shown");
    tracing::info!(endpoint = HOSTILE, "text");
    tracing::info!(endpoint = ?Some(HOSTILE), "debugged");
    tracing::info!("message {HOSTILE}");
    tracing::info!(message = HOSTILE);
    tracing::info!(error = &error as &(dyn std::error::Error + 'static), "failed");
    let span = tracing::info_span!("tunnel", endpoint = %HOSTILE, route = tracing::field::Empty);
    span.record("route", tracing::field::display(HOSTILE));
    span.in_scope(|| tracing::info!("within"));
}

#[test]
fn no_text_begins_a_line_or_drives_a_terminal() {
    for form in [Form::Text { colours: false }, Form::Json] {
        let log = logged(form, hostile_events);
        assert_eq!(log.lines().count(), 7, "{form:?}: {log}");
        assert!(log.ends_with('\n'));
        assert!(!log.contains(|one: char| one.is_control() && one != '\n'), "{form:?}: {log:?}");
        for character in ['\u{2028}', '\u{2029}', '\u{202e}', '\u{2066}', '\u{200f}', '\u{61c}'] {
            assert!(!log.contains(character), "{form:?}: {log:?}");
        }
    }
}

#[test]
fn in_colour_only_the_escape_sequences_of_the_line_itself_are_left() {
    let log = logged(Form::Text { colours: true }, hostile_events);
    assert_eq!(log.lines().count(), 7, "{log}");
    assert!(log.contains("\u{1b}[3mendpoint\u{1b}[0m\u{1b}[2m=\u{1b}[0mpod\\n2026"), "{log:?}");
    for sequence in log.split('\u{1b}').skip(1) {
        let (number, _) = sequence.strip_prefix('[').and_then(|rest| rest.split_once('m')).expect("a colour");
        assert!(number.parse::<u8>().is_ok(), "{log:?}");
    }
    assert!(!log.contains('\u{9b}') && !log.contains('\u{7}') && !log.contains('\r'));
}

#[test]
fn json_stays_json_with_the_same_text_in_it() {
    let log = logged(Form::Json, || tracing::info!(endpoint = %HOSTILE, "shown"));
    let line: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!((&line["endpoint"], &line["message"]), (&HOSTILE.into(), &"shown".into()));
}

#[test]
fn ordinary_lines_read_as_ever() {
    let log = logged(Form::Text { colours: false }, || {
        tracing::warn!(error = %"refused: größer", route = "shop/chat", count = 3, r#type = ?Some(1), "cannot watch");
    });
    let (_, line) = log.split_once("WARN ").unwrap();
    let expected = "cannot watch error=refused: größer route=\"shop/chat\" count=3 type=Some(1)\n";
    assert_eq!(line, format!("switchyard::metrics::log::tests: {expected}"));
}

#[test]
fn a_filter_that_names_a_library_wins() {
    let filter = |level| EnvFilter::try_new(with_quiet_libraries(level)).unwrap().to_string();
    assert!(filter("info").contains("notify=error"));
    let named = filter("info,notify=debug");
    assert!(named.contains("notify=debug") && !named.contains("notify=error"), "{named}");
    assert_eq!(filter("off"), "off");
}
