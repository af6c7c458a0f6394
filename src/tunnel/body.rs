//! The body that comes out of a tunnel.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::BodyError;

/// A body received through a tunnel. Dropping it before its end resets the stream.
pub struct Body;

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        unimplemented!()
    }

    fn is_end_stream(&self) -> bool {
        unimplemented!()
    }

    fn size_hint(&self) -> SizeHint {
        unimplemented!()
    }
}
