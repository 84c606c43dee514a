//! The output of each view as an edit of the input: runs of bytes that are copied, and replacements.
//!
//! A view is *live* while what is scanned belongs to its output; then nothing is done for it, not even for
//! commas and braces. Only at a change (a value treated or left out) is the run so far copied.

use crate::json::{Bounds, Scanner};

/// One view's output.
#[derive(Default)]
pub struct Track {
    pub out: Vec<u8>,
    /// Where the current run begins in the input.
    from: usize,
}

/// An input with the outputs that are made of it.
pub struct Frame<'i, 't> {
    pub scan: Scanner<'i>,
    pub tracks: &'t mut [Track],
    /// The views in a run.
    live: u64,
}

/// Where a member or element stands, for those that leave it out.
#[derive(Clone, Copy)]
pub struct Place {
    /// The end of what came before it, without the comma.
    pub before: usize,
    /// Its first byte: of its name, or of the element.
    pub start: usize,
}

/// The outputs at some moment.
pub struct Mark {
    live: u64,
    tracks: Vec<(usize, usize)>,
}

/// The views of `mask`, one at a time.
fn each(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let view = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (view < 64).then_some(view)
    })
}

impl<'i, 't> Frame<'i, 't> {
    /// All views of `mask` begin to copy at the input's start.
    pub fn new(input: &'i str, bounds: Bounds, tracks: &'t mut [Track], mask: u64) -> Self {
        for view in each(mask) {
            if let Some(track) = tracks.get_mut(view) {
                track.out.clear();
                track.from = 0;
            }
        }
        Frame { scan: Scanner::new(input, bounds), tracks, live: mask }
    }

    /// The member at `place` goes to the views of `mask`. `written` are those that have got one already.
    #[inline]
    pub fn want(&mut self, mask: u64, place: Place, written: &mut u64) {
        let dormant = mask & !self.live;
        if dormant != 0 {
            self.resume(dormant, place.start, *written);
        }
        *written |= mask;
    }

    #[cold]
    fn resume(&mut self, dormant: u64, at: usize, comma: u64) {
        for view in each(dormant) {
            if let Some(track) = self.tracks.get_mut(view) {
                if comma & (1 << view) != 0 {
                    track.out.push(b',');
                }
                track.from = at;
            }
        }
        self.live |= dormant;
    }

    /// The member at `place` does not go to the views of `mask`.
    #[inline]
    pub fn skip(&mut self, mask: u64, place: Place) {
        let ending = mask & self.live;
        for view in each(ending) {
            self.cut(view, place.before);
        }
        self.live &= !ending;
    }

    /// What the outputs are now, for [`Frame::rewind`].
    pub fn mark(&self) -> Mark {
        let of = |track: &Track| (track.out.len(), track.from);
        Mark { live: self.live, tracks: self.tracks.iter().map(of).collect() }
    }

    /// Takes back what went to the views of `mask` since the mark.
    pub fn rewind(&mut self, mark: &Mark, mask: u64) {
        for view in each(mask) {
            if let (Some(track), Some((length, from))) =
                (self.tracks.get_mut(view), mark.tracks.get(view))
            {
                track.out.truncate(*length);
                track.from = *from;
            }
        }
        self.live = self.live & !mask | mark.live & mask;
    }

    /// The container that just ended goes on for the views of `mask`: its bracket is at `at`.
    #[inline]
    pub fn close(&mut self, mask: u64, at: usize) {
        let dormant = mask & !self.live;
        if dormant != 0 {
            self.resume(dormant, at, 0);
        }
    }

    /// Copies the run up to `at`.
    #[inline]
    fn cut(&mut self, view: usize, at: usize) {
        if let Some(track) = self.tracks.get_mut(view) {
            track.out.extend_from_slice(self.scan.bytes_between(track.from, at));
            track.from = at;
        }
    }

    /// Puts what `write` appends in place of the input from `start` to `end`, in one view that is live.
    #[inline]
    pub fn replace<E>(
        &mut self,
        view: usize,
        start: usize,
        end: usize,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(track) = self.tracks.get_mut(view) else { return Ok(()) };
        track.out.extend_from_slice(self.scan.slice(track.from, start).as_bytes());
        track.from = end;
        write(&mut track.out)
    }

    /// Puts `text` in place of the input from `start` to `end`, in the views of `mask`.
    pub fn replace_all(&mut self, mask: u64, start: usize, end: usize, text: &[u8]) {
        for view in each(mask) {
            let Ok(()) = self.replace(view, start, end, |out| {
                out.extend_from_slice(text);
                Ok::<(), std::convert::Infallible>(())
            });
        }
    }

    /// Copies what is left of every run.
    pub fn finish(mut self) {
        let end = self.scan.at();
        for view in each(self.live) {
            self.cut(view, end);
        }
    }
}
