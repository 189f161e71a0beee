//! CUBIC (RFC 9438), with HyStart++ in the first slow start and appropriate byte counting (RFC 3465).

use std::time::Duration;

use super::hystart::{Advice, CSS_GROWTH_DIVISOR, HyStart};
use super::{Acked, CongestionControl};
use crate::Instant;

/// The curve's steepness, in segments per cubic second (section 5).
const C: f64 = 0.4;
/// What is left of the window after a loss (section 4.6).
const BETA: f64 = 0.7;
/// Growth that gives a Reno flow with `BETA` its share (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// Segments (RFC 6928).
const INITIAL_WINDOW: u32 = 10;

/// Windows in bytes, unless a name ends in `segments`.
#[derive(Clone, Copy, Debug)]
struct Curve {
    /// Where the plateau is.
    max_segments: f64,
    /// Seconds from the start of the epoch to the plateau.
    k: f64,
    epoch: Option<Instant>,
    /// What a Reno flow would have.
    reno_segments: f64,
    /// The window when it was last reduced.
    prior_segments: f64,
}

#[derive(Clone, Debug)]
pub(in super::super) struct Cubic {
    mss: u32,
    window: u32,
    threshold: u32,
    curve: Curve,
    /// Growth that is less than a byte so far.
    fraction: f64,
    /// Until the first loss.
    hystart: Option<HyStart>,
    /// The most that was on the way since the last reduction. In slow start the window grows to twice of it while
    /// something else keeps the sender back (pacing, the peer's window), and what was never tried says nothing about the path.
    used: u32,
    /// Window, threshold and curve before the last reduction.
    before: Option<Box<(u32, u32, Curve)>>,
}

impl Cubic {
    /// `repeated_syn`: the path has shown that it loses (RFC 6928, section 2).
    pub(in super::super) fn new(mss: u32, repeated_syn: bool) -> Self {
        let initial = if repeated_syn { mss } else { INITIAL_WINDOW * mss };
        let curve = Curve { max_segments: 0.0, k: 0.0, epoch: None, reno_segments: 0.0, prior_segments: 0.0 };
        Self {
            mss,
            window: initial,
            threshold: u32::MAX >> 1,
            curve,
            fraction: 0.0,
            hystart: Some(HyStart::new()),
            used: initial,
            before: None,
        }
    }

    fn segments(&self) -> f64 {
        f64::from(self.window) / f64::from(self.mss)
    }

    fn slow_start(&mut self, acked: &Acked) {
        let mut growth = if acked.after_timeout { acked.bytes.min(self.mss) } else { acked.bytes };
        if let Some(hystart) = &mut self.hystart {
            match hystart.on_acked(acked.now, acked.rtt, acked.una, acked.nxt) {
                Advice::Grow => {}
                Advice::GrowSlowly => growth /= CSS_GROWTH_DIVISOR,
                Advice::Leave => {
                    self.threshold = self.window;
                    self.hystart = None;
                    return;
                }
            }
        }
        if acked.limited {
            self.window = self.window.saturating_add(growth).min(self.threshold.max(self.window));
        }
    }

    /// Sections 4.2 to 4.5.
    fn avoid_congestion(&mut self, acked: &Acked) {
        let window = self.segments();
        let curve = &mut self.curve;
        let epoch = *curve.epoch.get_or_insert_with(|| {
            if curve.max_segments <= window {
                curve.max_segments = window;
                curve.k = 0.0;
            } else {
                curve.k = ((curve.max_segments - window) / C).cbrt();
            }
            curve.reno_segments = window;
            acked.now
        });
        let count = f64::from(acked.bytes) / f64::from(self.mss);
        let alpha = if curve.reno_segments >= curve.prior_segments { 1.0 } else { ALPHA };
        curve.reno_segments += alpha * count / window;
        let at = |time: f64| C * (time - curve.k).powi(3) + curve.max_segments;
        let age = acked.now.saturating_since(epoch).as_secs_f64();
        let goal = if at(age) < curve.reno_segments {
            // The Reno-friendly region.
            curve.reno_segments
        } else {
            let goal = at(age + acked.smoothed.as_secs_f64()).clamp(window, 1.5 * window);
            window + (goal - window) / window * count
        };
        self.grow_to(goal.clamp(window, window + count));
    }

    fn grow_to(&mut self, segments: f64) {
        let grown = (segments - self.segments()) * f64::from(self.mss) + self.fraction;
        let whole = grown.max(0.0).floor();
        self.fraction = (grown - whole).clamp(0.0, 1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
        let whole = whole as u32;
        self.window = self.window.saturating_add(whole).min(1 << 30);
    }

    /// Section 4.6. It reduces what is in flight; an application's pause before the loss is no reason to have less.
    fn reduce(&mut self, outstanding: u32) {
        let in_use = self.window.min(self.used.max(outstanding));
        let window = f64::from(in_use) / f64::from(self.mss);
        // Fast convergence (section 4.7): who has less than before makes room for others.
        self.curve.max_segments =
            if window < self.curve.max_segments { window * (1.0 + BETA) / 2.0 } else { window };
        self.curve.prior_segments = window;
        self.curve.epoch = None;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float saturates")]
        let reduced = (f64::from(in_use) * BETA) as u32;
        self.threshold = reduced.max(2 * self.mss);
        self.used = self.threshold;
        self.hystart = None;
    }
}

impl CongestionControl for Cubic {
    fn window(&self) -> u32 {
        self.window
    }

    fn threshold(&self) -> u32 {
        self.threshold
    }

    fn set_window(&mut self, window: u32) {
        self.window = window.max(self.mss);
    }

    fn on_acked(&mut self, acked: &Acked) {
        self.used = self.used.max(acked.nxt - acked.una + acked.bytes);
        if self.in_slow_start() {
            self.slow_start(acked);
        } else if acked.limited {
            self.avoid_congestion(acked);
        }
    }

    fn on_loss(&mut self, _now: Instant, outstanding: u32) {
        self.before = Some(Box::new((self.window, self.threshold, self.curve)));
        self.reduce(outstanding);
    }

    fn on_timeout(&mut self, _now: Instant, outstanding: u32, again: bool) {
        if !again {
            self.before = Some(Box::new((self.window, self.threshold, self.curve)));
            self.reduce(outstanding);
        }
        self.curve.epoch = None;
        self.window = self.mss;
    }

    fn undo(&mut self) {
        if let Some((window, threshold, curve)) = self.before.take().map(|before| *before) {
            self.window = self.window.max(window);
            self.used = self.used.max(self.window);
            self.threshold = threshold;
            self.curve = curve;
        }
    }

    fn on_idle(&mut self, idle: Duration, rto: Duration) {
        // The curve must not count the time in which nothing was tried (section 5.8).
        if let Some(epoch) = &mut self.curve.epoch {
            *epoch = *epoch + idle;
        }
        // Halved for every timeout that passed, like Linux: the window says less and less about the path.
        let restart = INITIAL_WINDOW * self.mss;
        let halvings = idle.as_micros() / rto.as_micros().max(1);
        if self.window > restart && halvings > 0 {
            self.threshold = self.threshold.max(self.window / 4 * 3);
            let shift = u32::try_from(halvings).unwrap_or(31).min(31);
            self.window = (self.window >> shift).max(restart);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::seq::Seq;
    use super::*;

    const MSS: u32 = 1000;

    fn acked(now: u64, bytes: u32) -> Acked {
        Acked {
            now: Instant::from_micros(now),
            bytes,
            rtt: None,
            smoothed: Duration::from_millis(100),
            una: Seq(0),
            nxt: Seq(0),
            limited: true,
            after_timeout: false,
        }
    }

    /// Figure of section 4.2: after a loss at 1,000 segments the plateau is reached after K = cbrt(300 / 0.4) = 9.09 s.
    #[test]
    fn the_curve_comes_back_to_where_it_was_after_k() {
        let mut cubic = Cubic::new(MSS, false);
        cubic.window = 1000 * MSS;
        cubic.on_loss(Instant::from_micros(0), 1000 * MSS);
        cubic.set_window(cubic.threshold());
        assert_eq!(cubic.window(), 700 * MSS);
        let mut now = 0;
        while now < 9_000_000 {
            for _ in 0..cubic.window() / MSS {
                cubic.on_acked(&acked(now, MSS));
            }
            now += 100_000;
        }
        assert!((990 * MSS..=1001 * MSS).contains(&cubic.window()), "{}", cubic.window());
    }

    #[test]
    fn the_second_loss_in_a_row_makes_room() {
        let mut cubic = Cubic::new(MSS, false);
        cubic.window = 1000 * MSS;
        cubic.on_loss(Instant::from_micros(0), 1000 * MSS);
        cubic.set_window(700 * MSS);
        cubic.on_loss(Instant::from_micros(1), 700 * MSS);
        assert!((cubic.curve.max_segments - 595.0).abs() < 0.1);
        cubic.undo();
        assert!((cubic.curve.max_segments - 1000.0).abs() < 0.1);
        assert_eq!((cubic.window(), cubic.threshold()), (700 * MSS, 700 * MSS));
    }

    /// Section 4.6: what is in flight is reduced, not what the window would have allowed.
    #[test]
    fn a_loss_reduces_what_was_in_use() {
        let mut cubic = Cubic::new(MSS, false);
        cubic.window = 1000 * MSS;
        cubic.on_acked(&Acked { nxt: Seq(590 * MSS), limited: false, ..acked(0, 10 * MSS) });
        // The application has sent less since then: the path has carried 600 all the same.
        cubic.on_acked(&Acked { nxt: Seq(9 * MSS), limited: false, ..acked(1, MSS) });
        cubic.on_loss(Instant::from_micros(2), 10 * MSS);
        assert_eq!(cubic.threshold(), 420 * MSS);
        cubic.undo();
        assert_eq!((cubic.window(), cubic.used), (1000 * MSS, 1000 * MSS));
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut cubic = Cubic::new(MSS, false);
        let before = cubic.window();
        for n in 0..1000 {
            cubic.on_acked(&Acked { limited: false, ..acked(n * 1000, MSS) });
        }
        assert_eq!(cubic.window(), before);
    }
}
