//! Owns standard error: progress, warnings, notes and errors, each on a line of its own that no bar runs through.
//!
//! Always: with `--json` every line is a JSON object; what comes from an archive is escaped. Never: draws a bar that nobody looks at.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use cryostore_engine::{Monitor, Phase};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::called::say;
use crate::exit::Failure;
use crate::output::Document;
use crate::signals::StopFlag;
use crate::text::printable;

/// What is shown besides results.
#[derive(Debug)]
pub(crate) struct Screen {
    json: bool,
    quiet: bool,
    verbose: bool,
    draw: bool,
    stop: StopFlag,
    told: AtomicBool,
    bar: Mutex<Option<(Phase, ProgressBar)>>,
}

#[derive(Serialize)]
struct WarningObject<'a> {
    warning: &'a str,
}

#[derive(Serialize)]
struct ErrorObject {
    error: ErrorBody,
}

#[derive(Serialize)]
struct ErrorBody {
    kind: &'static str,
    exit_code: u8,
    text: String,
    advice: Option<String>,
    causes: Vec<String>,
}

impl Screen {
    pub(crate) fn new(json: bool, quiet: bool, verbose: bool, stop: StopFlag) -> Self {
        let draw = std::io::stderr().is_terminal() && !quiet && !json;
        Self {
            json,
            quiet,
            verbose,
            draw,
            stop,
            told: AtomicBool::new(false),
            bar: Mutex::new(None),
        }
    }

    /// The wish to stop.
    pub(crate) const fn stop_flag(&self) -> &StopFlag {
        &self.stop
    }

    /// Something that helps the user and that no program needs.
    pub(crate) fn note(&self, text: &str) {
        if !self.quiet && !self.json {
            self.line(&printable(&say(text)));
        }
    }

    /// A line that was asked for with `-v`.
    pub(crate) fn trace(&self, text: &str) {
        if !self.json {
            self.line(&printable(text));
        }
    }

    /// Text that is a report already.
    pub(crate) fn report(&self, text: &str) {
        if !self.quiet {
            self.line(text.trim_end());
        }
    }

    pub(crate) fn warn(&self, text: &str) {
        let text = &*say(text);
        if self.quiet {
        } else if self.json {
            self.line(&Document::line(&WarningObject { warning: text }));
        } else {
            self.line(&format!("warning: {}", printable(text)));
        }
    }

    /// The last thing that a command says.
    pub(crate) fn fail(&self, failure: &Failure) {
        self.clear();
        if matches!(failure, Failure::StdoutClosed) {
            return;
        }
        let (text, causes) = (say(&failure.text()).into_owned(), failure.causes());
        let advice = failure.advice().map(say);
        let advice = advice.as_deref();
        if self.json {
            let (kind, exit_code, advice) =
                (failure.kind(), failure.code(), advice.map(str::to_owned));
            self.line(&Document::line(&ErrorObject {
                error: ErrorBody {
                    kind,
                    exit_code,
                    text,
                    advice,
                    causes,
                },
            }));
            return;
        }
        self.line(&format!("error: {}", printable(&text)));
        if self.verbose {
            causes
                .iter()
                .for_each(|cause| self.line(&format!("cause: {}", printable(cause))));
        }
        if let Some(advice) = advice {
            self.line(&format!("help: {}", printable(advice)));
        }
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        if let Some((_, bar)) = self
            .bar
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            bar.finish_and_clear();
        }
    }

    fn line(&self, text: &str) {
        // If standard error is gone, there is nobody to tell.
        let write = || drop(writeln!(std::io::stderr().lock(), "{text}"));
        match &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((_, bar)) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Monitor for Screen {
    fn progress(&self, phase: Phase, done: u64, total: Option<u64>) {
        if !self.draw {
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if bar.as_ref().is_some_and(|(drawn, _)| *drawn != phase) {
            bar.take()
                .into_iter()
                .for_each(|(_, old)| old.finish_and_clear());
        }
        let (_, bar) = bar.get_or_insert_with(|| (phase, new_bar(phase, total)));
        if let Some(total) = total
            && bar.length() != Some(total)
        {
            bar.set_length(total);
        }
        bar.set_position(done);
    }

    fn warning(&self, text: &str) {
        self.warn(text);
    }

    fn stop(&self) -> bool {
        let stop = self.stop.is_set();
        if stop && !self.told.swap(true, Ordering::Relaxed) && self.draw {
            self.note("stopping; once more to end at once");
        }
        stop
    }
}

fn new_bar(phase: Phase, total: Option<u64>) -> ProgressBar {
    let (doing, bytes) = match phase {
        Phase::Import => ("importing", true),
        Phase::Export => ("exporting", true),
        Phase::Check => ("checking", false),
        Phase::Collect => ("collecting", false),
        Phase::Index => ("indexing", false),
        Phase::Optimize => ("rewriting", true),
        _ => ("working", false),
    };
    let template = match (total, bytes) {
        (Some(_), true) => {
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}"
        }
        (Some(_), false) => "{msg} {wide_bar} {pos}/{len}",
        (None, true) => "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}",
        (None, false) => "{msg} {spinner} {pos}",
    };
    // 10 times in a second: more is not seen.
    let target = ProgressDrawTarget::stderr_with_hz(10);
    let bar = ProgressBar::with_draw_target(total, target).with_message(doing);
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}
