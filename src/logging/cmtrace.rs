//! The line format that CMTrace and OneTrace read.
//!
//! `<![LOG[message]LOG]!><time="HH:MM:SS.mmm+000" date="MM-DD-YYYY" component="…" context="" type="1" thread="…" file="">`;
//! the number after the time is the bias in minutes, and ours is UTC.

use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::thread;

use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::Component;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[hour]:[minute]:[second].[subsecond digits:3]+000");
const DATE: &[BorrowedFormatItem<'_>] = format_description!("[month]-[day]-[year]");

/// Formats events as CMTrace lines of one component.
#[derive(Debug)]
pub(super) struct CmTrace(pub(super) Component);

impl<S, N> FormatEvent<S, N> for CmTrace
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        for span in context.event_scope().into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<FormattedFields<N>>() {
                write!(text.fields, " {}", fields.fields)?;
            }
        }
        let message = format!("{}{}", text.message, text.fields);
        let line = line(
            &message,
            OffsetDateTime::now_utc(),
            self.0,
            *event.metadata().level(),
            thread_number(),
        );
        writeln!(writer, "{line}")
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string never fails.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            write!(self.fields, " {}={value:?}", field.name())
        };
    }
}

fn line(
    message: &str,
    now: OffsetDateTime,
    component: Component,
    level: Level,
    thread: u64,
) -> String {
    // One event is one line, and no message can end its own bracket or begin another.
    let message: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let message = message
        .replace("]LOG]!>", "]LOG]! >")
        .replace("<![LOG[", "< ![LOG[");
    let time = now.format(TIME).unwrap_or_default();
    let date = now.format(DATE).unwrap_or_default();
    let component = component.as_str();
    let kind = match level {
        Level::ERROR => 3,
        Level::WARN => 2,
        _ => 1,
    };
    format!(
        "<![LOG[{message}]LOG]!><time=\"{time}\" date=\"{date}\" component=\"{component}\" \
         context=\"\" type=\"{kind}\" thread=\"{thread}\" file=\"\">"
    )
}

/// A number that tells threads apart; CMTrace wants one, and the standard library shows none.
fn thread_number() -> u64 {
    let mut hasher = DefaultHasher::new();
    thread::current().id().hash(&mut hasher);
    hasher.finish() % 100_000
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    fn at_noon(message: &str, level: Level) -> String {
        let noon = datetime!(2026-03-09 12:05:01.042 UTC);
        line(message, noon, Component::Gateway, level, 7)
    }

    #[test]
    fn a_line_has_the_form_that_cmtrace_reads() {
        assert_eq!(
            at_noon("tunnel is up", Level::INFO),
            "<![LOG[tunnel is up]LOG]!><time=\"12:05:01.042+000\" date=\"03-09-2026\" \
             component=\"CMGService\" context=\"\" type=\"1\" thread=\"7\" file=\"\">"
        );
        assert!(at_noon("x", Level::WARN).contains(" type=\"2\" "));
        assert!(at_noon("x", Level::ERROR).contains(" type=\"3\" "));
    }

    #[test]
    fn a_message_can_neither_end_its_line_nor_begin_another() {
        let forged = at_noon("a\r\nb]LOG]!><time=\"\"><![LOG[c", Level::INFO);
        assert_eq!(forged.matches("<![LOG[").count(), 1);
        assert_eq!(forged.matches("]LOG]!>").count(), 1);
        assert!(!forged.contains(['\r', '\n']));
    }
}
