//! Owns what the engine says beside its results: warnings always, the rest with `-v`; all of it through the screen.

use std::fmt::{Debug, Write};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, registry};

use crate::exit::Failure;
use crate::screen::Screen;

const VARIABLE: &str = "CRYOSTORE_LOG";

/// Starts to listen. `verbose` counts the `-v`.
pub(crate) fn start(verbose: u8, screen: &Arc<Screen>) -> Result<(), Failure> {
    let directives = match (std::env::var(VARIABLE), verbose) {
        (Ok(directives), _) if !directives.is_empty() => directives,
        (_, 0) => "warn".to_owned(),
        (_, 1) => "warn,cryostore=info,cryostore_engine=info".to_owned(),
        (_, 2) => "warn,cryostore=debug,cryostore_engine=debug".to_owned(),
        _ => "info,cryostore=trace,cryostore_engine=trace".to_owned(),
    };
    let filter = EnvFilter::try_new(&directives).map_err(|e| {
        Failure::usage(
            format!("{VARIABLE}={directives}: {e}"),
            "say a level, such as `debug`, or `cryostore_engine=debug`",
        )
    })?;
    // It fails only if somebody listens already, which is no harm.
    let _ = registry()
        .with(filter)
        .with(ToScreen(Arc::clone(screen)))
        .try_init();
    Ok(())
}

struct ToScreen(Arc<Screen>);

impl<S: Subscriber> Layer<S> for ToScreen {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        let text = format!("{}{}", line.message, line.fields);
        if *event.metadata().level() <= Level::WARN {
            self.0.warn(&text);
        } else {
            let level = event.metadata().level().as_str().to_ascii_lowercase();
            self.0.trace(&format!("{level}: {text}"));
        }
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing into a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
