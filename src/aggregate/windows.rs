//! Which windows an event time falls into.

/// Windows of `size` milliseconds, one starting each `slide` milliseconds. With a slide of their size they tumble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    pub size: i64,
    pub slide: i64,
    /// A window starts so many milliseconds after the epoch.
    pub offset: i64,
}

/// From `start` up to `end`, but not including it; in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window {
    pub start: i64,
    pub end: i64,
}

/// Event times and spans beyond it are refused, so that no sum of them overflows.
pub(super) const FARTHEST: i64 = 1 << 53;

impl Windows {
    pub fn tumbling(size: i64) -> Windows {
        Windows { size, slide: size, offset: 0 }
    }

    pub fn window(&self, start: i64) -> Window {
        Window { start, end: start + self.size }
    }

    /// The starts of the windows that a time falls into, the last one first.
    pub fn starts(&self, time: i64) -> impl Iterator<Item = i64> + use<> {
        let Windows { size, slide, .. } = *self;
        let last = self.floor(time);
        (0..).map(move |step| last - step * slide).take_while(move |start| time - start < size)
    }

    /// The starts of the windows that end after `after`, up to those that end at `until`.
    pub(super) fn ending(&self, after: i64, until: i64) -> impl Iterator<Item = i64> + use<> {
        let slide = self.slide;
        let first = self.floor(after - self.size) + slide;
        let last = until - self.size;
        (0..).map(move |step| first + step * slide).take_while(move |start| *start <= last)
    }

    /// How many windows can be open at once, where the watermark is so far behind the largest event time.
    pub(super) fn most_open(&self, behind: i64) -> i64 {
        (self.size + behind) / self.slide + 1
    }

    pub(super) fn is_aligned(&self, start: i64) -> bool {
        self.floor(start) == start
    }

    fn floor(&self, time: i64) -> i64 {
        (time.saturating_sub(self.offset)).div_euclid(self.slide) * self.slide + self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_and_contain_their_time() {
        let sliding = Windows { size: 10, slide: 4, offset: 1 };
        for time in -30..30 {
            let expected: Vec<i64> = (-100..100)
                .filter(|start| (start - 1) % 4 == 0)
                .filter(|start| (0..10).contains(&(time - start)))
                .rev()
                .collect();
            assert_eq!(sliding.starts(time).collect::<Vec<_>>(), expected, "{time}");
        }
        assert_eq!(Windows::tumbling(10).starts(-1).collect::<Vec<_>>(), [-10]);
        assert_eq!(sliding.ending(10, 19).collect::<Vec<_>>(), [1, 5, 9]);
        assert_eq!(sliding.ending(11, 11).count(), 0);
    }
}
