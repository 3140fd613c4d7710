//! A small deterministic generator for tests that try many inputs.

/// Pseudo-random numbers from a seed (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which must not be 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 33).expect("31 bits") % limit
    }

    /// True once in so many times, on average.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// Simulates one seed after the other: as many as usual or as `MPTCPD_SIMULATION_SEEDS` says, or, with a trace,
/// the one that `MPTCPD_SIMULATION_SEED` names.
pub(crate) fn for_every_seed(usual: u64, simulate: impl Fn(u64, bool) + std::panic::RefUnwindSafe) {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse().ok());
    if let Some(seed) = number("MPTCPD_SIMULATION_SEED") {
        return simulate(seed, true);
    }
    for seed in 0..number("MPTCPD_SIMULATION_SEEDS").unwrap_or(usual) {
        let result = std::panic::catch_unwind(|| simulate(seed, false));
        assert!(result.is_ok(), "seed {seed} failed: replay it with MPTCPD_SIMULATION_SEED={seed}");
    }
}
