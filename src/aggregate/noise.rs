//! Where chance comes from.

use dashu::integer::{IBig, UBig};
use dashu::rational::RBig;
use opendp::traits::samplers::{
    sample_bernoulli_rational, sample_discrete_laplace, sample_uniform_uint_below,
};

/// No random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no noise can be drawn")]
pub struct NoiseFailed;

/// Draws that are independent of each other and of everything else. Tests may fix them.
pub trait Noise {
    /// Discrete Laplace: the probability of `x` is proportional to exp(-|x| / scale).
    fn laplace(&mut self, scale: &RBig) -> Result<IBig, NoiseFailed>;

    /// True with the probability exp(-exponent).
    fn survives(&mut self, exponent: &RBig) -> Result<bool, NoiseFailed>;

    /// A number from 0 up to, but not including, `bound`, which is above 0.
    fn below(&mut self, bound: u64) -> Result<u64, NoiseFailed>;
}

/// The exact samplers of OpenDP (Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, 2020), with
/// random bits from ChaCha20, seeded and seeded anew by the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNoise;

impl Noise for SystemNoise {
    fn laplace(&mut self, scale: &RBig) -> Result<IBig, NoiseFailed> {
        sample_discrete_laplace(scale.clone()).map_err(|_| NoiseFailed)
    }

    fn survives(&mut self, exponent: &RBig) -> Result<bool, NoiseFailed> {
        let (mut whole, rest) = exponent.clone().split_at_point();
        while whole > IBig::ZERO {
            if !survives_part(&RBig::ONE)? {
                return Ok(false);
            }
            whole -= IBig::ONE;
        }
        survives_part(&rest)
    }

    fn below(&mut self, bound: u64) -> Result<u64, NoiseFailed> {
        sample_uniform_uint_below(bound).map_err(|_| NoiseFailed)
    }
}

/// For exponents from 0 to 1: Canonne, Kamath, Steinke 2020, algorithm 1.
fn survives_part(exponent: &RBig) -> Result<bool, NoiseFailed> {
    let mut draws = 1_u64;
    while flip(exponent / RBig::from(UBig::from(draws)))? {
        draws += 1;
    }
    Ok(draws % 2 == 1)
}

fn flip(probability: RBig) -> Result<bool, NoiseFailed> {
    sample_bernoulli_rational(probability).map_err(|_| NoiseFailed)
}

/// One of `distances`, by permute-and-flip (McKenna, Sheldon, NeurIPS 2020): the chance of one that is `d` farther
/// than the nearest is at most exp(-rate * d) of that one's.
pub(super) fn choose(
    distances: &[u128],
    rate: &RBig,
    noise: &mut dyn Noise,
) -> Result<Option<usize>, NoiseFailed> {
    let Some(least) = distances.iter().min() else { return Ok(None) };
    let mut left: Vec<usize> = (0..distances.len()).collect();
    while !left.is_empty() {
        let place = usize::try_from(noise.below(left.len() as u64)?).map_err(|_| NoiseFailed)?;
        let choice = left.swap_remove(place.min(left.len() - 1));
        let farther = distances.get(choice).map_or(0, |distance| distance - least);
        if farther == 0 || noise.survives(&(rate * RBig::from(UBig::from(farther))))? {
            return Ok(Some(choice));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 20_000;

    /// Six standard errors: one run in 500 million fails by chance.
    fn assert_probability(hits: u32, probability: f64) {
        let error = 6.0 * (probability * (1.0 - probability) / f64::from(DRAWS)).sqrt();
        let found = f64::from(hits) / f64::from(DRAWS);
        assert!((found - probability).abs() <= error, "{found} {probability}");
    }

    fn hits(mut draw: impl FnMut() -> bool) -> u32 {
        (0..DRAWS).map(|_| u32::from(draw())).sum()
    }

    #[test]
    fn survival_has_its_probability() {
        for (numerator, denominator) in [(0, 1_u8), (1, 4), (1, 1), (9, 4)] {
            let exponent = RBig::from_parts(IBig::from(numerator), UBig::from(denominator));
            let hits = hits(|| SystemNoise.survives(&exponent).unwrap());
            assert_probability(hits, (-f64::from(numerator) / f64::from(denominator)).exp());
        }
    }

    #[test]
    fn laplace_has_its_probabilities() {
        let scale = RBig::from_parts(IBig::from(5), UBig::from(2_u8));
        let ratio = (-0.4_f64).exp();
        for value in [-3, 0, 1, 6_i32] {
            let hits = hits(|| SystemNoise.laplace(&scale).unwrap() == IBig::from(value));
            assert_probability(hits, (1.0 - ratio) / (1.0 + ratio) * ratio.powi(value.abs()));
        }
    }

    /// For two: the nearer one is first in half of the cases, else the farther one has to survive.
    #[test]
    fn the_choice_has_its_probabilities() {
        let rate = RBig::from_parts(IBig::from(1), UBig::from(10_u8));
        let far = hits(|| choose(&[12, 5], &rate, &mut SystemNoise).unwrap() == Some(0));
        assert_probability(far, (-0.7_f64).exp() / 2.0);
        assert_eq!(choose(&[], &rate, &mut SystemNoise), Ok(None));
    }
}
