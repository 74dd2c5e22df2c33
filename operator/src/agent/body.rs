//! Owns the body of an answer: whole, or lines as they come; an empty one where nothing happens for long, so that whoever waits knows that somebody is
//! there.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// 10 s: a client gives up after a minute without a byte, and some networks forget a connection after that.
const ALIVE_EVERY: Duration = Duration::from_secs(10);

/// What goes back.
pub(crate) enum Answer {
    Whole(Option<Bytes>),
    Lines(mpsc::Receiver<Bytes>, Interval),
}

impl Answer {
    pub(crate) fn lines(lines: mpsc::Receiver<Bytes>) -> Self {
        let mut alive = interval(ALIVE_EVERY);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self::Lines(lines, alive)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Lines(lines, alive) => match lines.poll_recv(context) {
                Poll::Ready(line) => Poll::Ready(line.map(|line| Ok(Frame::data(line)))),
                Poll::Pending => alive
                    .poll_tick(context)
                    .map(|_| Some(Ok(Frame::data(Bytes::from_static(b"\n"))))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Lines(..) => SizeHint::default(),
        }
    }
}
