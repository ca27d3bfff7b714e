//! Where random bytes come from is the caller's choice: the system in a shell, a seed in a simulation.

/// A source of random bytes.
pub trait Randomness {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// The operating system's generator, for shells.
#[derive(Debug, Default, Clone, Copy)]
pub struct System;

impl Randomness for System {
    #[expect(clippy::expect_used, reason = "without randomness no secret can be made, and going on would be worse")]
    fn fill(&mut self, bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).expect("the operating system gives random bytes");
    }
}

impl<R: Randomness + ?Sized> Randomness for &mut R {
    fn fill(&mut self, bytes: &mut [u8]) {
        (**self).fill(bytes);
    }
}
