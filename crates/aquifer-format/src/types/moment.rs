//! How long ago something was, on a machine that may have stood still.

use std::time::{Duration, Instant, SystemTime};

/// A moment, by both clocks: one may stand still while a machine is suspended, the other may be set back.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    /// This moment.
    pub fn now() -> Moment {
        Moment { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago it was, by the clock by which it was longer.
    pub fn elapsed(&self) -> Duration {
        self.monotonic.elapsed().max(self.wall.elapsed().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_by_the_clock_that_did_not_stand_still() {
        let hour = Duration::from_hours(1);
        let now = Moment::now();
        let suspended = Moment { wall: now.wall.checked_sub(hour).unwrap(), ..now };
        let set_back = Moment { wall: now.wall + hour, monotonic: now.monotonic.checked_sub(hour).unwrap() };
        assert!(suspended.elapsed() >= hour && set_back.elapsed() >= hour && now.elapsed() < hour);
    }
}
