//! `noise`: a number with random noise of the Laplace or the Gaussian distribution on it.
//!
//! The noise is drawn on the grid of the decimal places that are published: discrete Laplace and discrete Gaussian
//! (Canonne, Kamath, Steinke: The Discrete Gaussian for Differential Privacy, 2020), by the exact samplers of OpenDP.
//! There is no floating-point number between the value and what is published, hence none whose low bits tell the value
//! (Mironov: On Significance of the Least Significant Bits for Differential Privacy, 2012). Random bits come from
//! rand's ThreadRng (ChaCha20, seeded and seeded anew by the operating system), which OpenDP takes where it is built without
//! an OpenSSL of its own. Its authors vouch for the other alone; that one would be an older OpenSSL than Kafka's.

use std::sync::Arc;

use dashu::integer::{IBig, UBig};
use dashu::rational::RBig;
use opendp::traits::samplers::{sample_discrete_gaussian, sample_discrete_laplace};

use super::clamp::{Bounds, DIGITS};
use super::decimal::{Decimal, decimal_text};
use super::spec::{Example, Family, Gives, Parameter, Spec, Takes};
use super::{Arguments, Operator, Refusal, Scratch, Treatment};
use crate::json::{Kind, Value, write_string};

pub const SPEC: Spec = Spec {
    name: "noise",
    family: Family::Perturb,
    summary: "Adds random noise to a number: sums and means over many people stay about right, and no single number \
              can be believed. Each time another: who gets the same value often comes near it by the mean. With \
              `epsilon`, `min` and `max` one number under it is differentially private, by epsilon, or by epsilon and delta \
              under `gaussian`. What is not a number is quarantined: not_a_number.",
    takes: Takes::Text,
    gives: Gives::Same,
    reversible: false,
    deterministic: false,
    distinct: false,
    of_subject: false,
    parameters: &[
        Parameter { name: "distribution", default: "laplace", doc: "laplace or gaussian" },
        Parameter {
            name: "scale",
            default: "none",
            doc: "how much noise: the scale of the Laplace distribution, whose mean distance from 0 it is, or the \
                  standard deviation of the Gaussian",
        },
        Parameter {
            name: "epsilon",
            default: "none",
            doc: "instead of `scale`, with `min` and `max`: the noise that one value needs to be \
                  epsilon-differentially private. Laplace: scale = (max - min) / epsilon (Dwork, McSherry, Nissim, Smith \
                  2006). Gaussian: by zero-concentrated differential privacy (Bun, Steinke 2016)",
        },
        Parameter {
            name: "delta",
            default: "none",
            doc: "with `gaussian` and `epsilon`: the probability with which that may not hold, such as 0.000001",
        },
        Parameter {
            name: "min",
            default: "none",
            doc: "numbers below count as this; what is published may lie below all the same",
        },
        Parameter {
            name: "max",
            default: "none",
            doc: "numbers above count as this; what is published may lie above all the same",
        },
        Parameter {
            name: "decimals",
            default: "0",
            doc: "decimal places of what is published, 0 to 9, and of `min` and `max` at most; more than 0 is not fit for a \
                  column of integers",
        },
    ],
    examples: &[
        Example { policy: "noise: { scale: 5 }", input: "42", output: "" },
        Example {
            policy: "noise: { epsilon: 1, min: 0, max: 200000, decimals: 2 }",
            input: "51000.75",
            output: "",
        },
        Example {
            policy: "noise: { distribution: gaussian, epsilon: 1, delta: 0.000001, min: 0, max: 100 }",
            input: "42",
            output: "",
        },
    ],
    build,
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Distribution {
    Laplace,
    Gaussian,
}

struct Noise {
    distribution: Distribution,
    /// In units of the last decimal place.
    scale: RBig,
    bounds: Bounds,
    decimals: i64,
}

fn build(arguments: &mut Arguments<'_>) -> Option<Treatment> {
    let word = arguments.scalar("distribution");
    let distribution = match word {
        None => Distribution::Laplace,
        word => match arguments.one_of(word, &["laplace", "gaussian"])? {
            "gaussian" => Distribution::Gaussian,
            _ => Distribution::Laplace,
        },
    };
    let decimals = arguments.number("decimals", 0..=9).unwrap_or(0) as i64;
    let scale = arguments.positive("scale", DIGITS);
    let epsilon = arguments.positive("epsilon", DIGITS);
    let delta = arguments.positive("delta", DIGITS);
    if delta.as_ref().is_some_and(|delta| delta.size() > 0) {
        arguments.missing("a `delta` below 1");
        return None;
    }
    let bounds = Bounds::read(arguments);
    // Else numbers would count as what lies beside the bound, on the grid.
    let mut ends = bounds.min.iter().chain(&bounds.max);
    if ends.any(|end| end.number.places() > decimals) {
        arguments.missing("`min` and `max` of no more decimal places than `decimals`");
        return None;
    }
    let given = |arguments: &mut Arguments<'_>, name| arguments.node(name).is_some();
    let of = ["scale", "epsilon", "delta"].map(|name| given(arguments, name));
    let scale = match of {
        [true, false, false] => exact(&scale?, decimals)?,
        [false, true, with_delta] if with_delta == (distribution == Distribution::Gaussian) => {
            let range = || {
                let (min, max) = (bounds.min.as_ref()?, bounds.max.as_ref()?);
                Some(exact(&max.number, decimals)? - exact(&min.number, decimals)?)
            };
            let Some(range) = range() else {
                arguments.missing("`min` and `max` with `epsilon`");
                return None;
            };
            match distribution {
                Distribution::Laplace => range / exact(&epsilon?, 0)?,
                Distribution::Gaussian => range * deviation(&epsilon?, &delta?)?,
            }
        }
        _ => {
            arguments.missing(
                "`scale`, or `epsilon` with `min` and `max`, and with `gaussian` and `epsilon` a `delta`",
            );
            return None;
        }
    };
    Some(Treatment::Plain(Arc::new(Noise { distribution, scale, bounds, decimals })))
}

/// A number of the policy in units of a decimal place.
fn exact(number: &Decimal, decimals: i64) -> Option<RBig> {
    let digits = number.floor(DIGITS)?;
    let unit = |places: i64| UBig::from(10_u8).pow(usize::try_from(places).unwrap_or(0));
    Some(RBig::from_parts(IBig::from(digits) * IBig::from(unit(decimals)), unit(DIGITS)))
}

/// The standard deviation for a range of 1, rounded up: rho-zCDP with sigma = 1 / sqrt(2 rho) (Canonne, Kamath, Steinke
/// 2020, theorem 4) is (rho + 2 sqrt(rho ln(1/delta)), delta)-differentially private (Bun, Steinke 2016, proposition 1.3).
fn deviation(epsilon: &Decimal, delta: &Decimal) -> Option<RBig> {
    let [epsilon, delta] = [epsilon, delta].map(|number| {
        let digits = number.floor(DIGITS).unwrap_or_default();
        digits as f64 / 10_f64.powi(DIGITS as i32)
    });
    let log = (1.0 / delta).ln();
    // The difference of the roots of `log + epsilon` and `log`, without cancellation.
    let root = epsilon / ((log + epsilon).sqrt() + log.sqrt());
    let sigma = 1.0 / (root * 2_f64.sqrt());
    const UNITS: f64 = 1e9;
    let units = sigma * UNITS * (1.0 + 1e-9);
    (units.is_finite() && units < 1e30)
        .then(|| RBig::from_parts(IBig::from(units.ceil() as i128), UBig::from(UNITS as u64)))
}

impl Noise {
    fn draw(&self) -> Option<i128> {
        let scale = self.scale.clone();
        let drawn = match self.distribution {
            Distribution::Laplace => sample_discrete_laplace(scale),
            Distribution::Gaussian => sample_discrete_gaussian(scale),
        };
        i128::try_from(drawn.ok()?).ok()
    }

    fn end(&self, number: &Decimal) -> Decimal {
        self.bounds.beyond(number).map_or_else(|| number.clone(), |end| end.number.clone())
    }
}

impl Operator for Noise {
    fn apply(
        &self,
        value: &Value<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let number = self.end(&Decimal::of(value, &mut scratch.text)?);
        let noisy = number.floor(self.decimals).zip(self.draw());
        let noisy = noisy.and_then(|(number, noise)| number.checked_add(noise));
        // To clamp it again would pull means to the middle, and protect nobody.
        let text = decimal_text(noisy.ok_or(Refusal::NotANumber)?, self.decimals);
        match value.kind() {
            Kind::Number => out.extend_from_slice(text.as_bytes()),
            _ => write_string(out, &text),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{apply, read};
    use super::*;

    fn draws(policy: &str, input: &str, count: usize) -> Vec<f64> {
        let operator = read(policy).unwrap();
        let draw = |_| {
            let mut out = Vec::new();
            let value = Value::parse(input).unwrap();
            operator.apply(&value, &mut Scratch::default(), &mut out).unwrap();
            String::from_utf8(out).unwrap().trim_matches('"').parse().unwrap()
        };
        (0..count).map(draw).collect()
    }

    fn mean(of: impl Iterator<Item = f64> + Clone) -> f64 {
        of.clone().sum::<f64>() / of.count() as f64
    }

    /// Six standard errors: one run in 500 million fails by chance.
    #[test]
    fn the_noise_is_of_the_distribution_that_was_said() {
        const COUNT: usize = 20_000;
        let error = |deviation: f64| 6.0 * deviation / (COUNT as f64).sqrt();
        let all = draws("noise: { scale: 5, decimals: 2 }", "42.125", COUNT);
        // The mean distance is the scale, whose own deviation it is.
        assert!((mean(all.iter().copied()) - 42.12).abs() < error(5.0 * 2_f64.sqrt()));
        assert!((mean(all.iter().map(|one| (one - 42.12).abs())) - 5.0).abs() < error(5.0));
        let all = draws("noise: { distribution: gaussian, scale: 3 }", "\"-7\"", COUNT);
        assert!((mean(all.iter().copied()) + 7.0).abs() < error(3.0));
        let square = mean(all.iter().map(|one| (one + 7.0).powi(2)));
        assert!((square - 9.0).abs() < error(9.0 * 2_f64.sqrt()), "{square}");
        // What lies beyond the bounds counts as they do, and the mean stays there.
        let all = draws("noise: { epsilon: 0.5, min: 0, max: 10 }", "1e99", COUNT);
        assert!((mean(all.iter().copied()) - 10.0).abs() < error(20.0 * 2_f64.sqrt()));
        assert!(all.iter().all(|one| one.fract() == 0.0));
    }

    #[test]
    fn the_scale_follows_from_epsilon() {
        let laplace = exact(&Decimal::parse("0.25").unwrap(), 2).unwrap();
        assert_eq!(laplace, RBig::from(25));
        // epsilon 1, delta 1e-6: sqrt(ln 1e6 + 1) - sqrt(ln 1e6) = 0.13219, sigma = 5.3492.
        let decimal = |text| Decimal::parse(text).unwrap();
        let sigma = deviation(&decimal("1"), &decimal("0.000001")).unwrap().to_f64().value();
        let log = 1e6_f64.ln();
        let rho = 1.0 / (2.0 * sigma * sigma);
        let epsilon = rho + 2.0 * (rho * log).sqrt();
        assert!(epsilon <= 1.0 && epsilon > 0.999_999, "{sigma} {epsilon}");
    }

    #[test]
    fn values_keep_their_kind_and_their_places() {
        for _ in 0..50 {
            let text = apply("noise: { scale: 100, decimals: 3 }", "1").unwrap();
            assert!(text.parse::<f64>().is_ok(), "{text}");
            assert!(text.split_once('.').is_none_or(|(_, places)| places.len() <= 3), "{text}");
        }
        // Beyond a bound it is the bound itself that noise is drawn on, and that is on the grid.
        for (input, end) in [("0.25", 0.5), ("9.99", 2.5)] {
            let policy = "noise: { scale: 0.000001, min: 0.5, max: 2.5, decimals: 1 }";
            assert!(draws(policy, input, 50).iter().all(|one| *one == end), "{input}");
        }
        let text = apply("noise: { scale: 100 }", "\"1.9\"").unwrap();
        assert!(text.starts_with('"') && !text.contains('.'), "{text}");
        for input in ["\"\"", "\"ten\"", "\"NaN\"", "1e99"] {
            assert_eq!(apply("noise: { scale: 1 }", input), Err(Refusal::NotANumber), "{input}");
        }
        assert_eq!(apply("noise: { scale: 1 }", "true"), Err(Refusal::WrongType));
    }

    #[test]
    fn mistakes_are_reported() {
        for (policy, expected) in [
            ("noise", "`scale`, or `epsilon`"),
            ("noise: laplace", "`laplace` / `scale`, or"),
            ("noise: { distribution: lapalce, scale: 1 }", "one of laplace, gaussian"),
            ("noise: { scale: 0 }", "a number above 0 for `scale`"),
            ("noise: { scale: 1, epsilon: 1 }", "`scale`, or `epsilon`"),
            ("noise: { epsilon: 1 }", "`min` and `max` with `epsilon`"),
            ("noise: { epsilon: 1, min: 0 }", "`min` and `max` with `epsilon`"),
            ("noise: { epsilon: 1, min: 0.5, max: 2 }", "of no more decimal places"),
            ("noise: { scale: 1, min: 0.5 }", "of no more decimal places"),
            ("noise: { scale: 1, max: 2.25, decimals: 1 }", "of no more decimal places"),
            ("noise: { epsilon: 1, min: 0, max: 2, delta: 0.1 }", "`scale`, or `epsilon`"),
            ("noise: { distribution: gaussian, epsilon: 1, min: 0, max: 2 }", "a `delta`"),
            (
                "noise: { distribution: gaussian, epsilon: 1, delta: 2, min: 0, max: 2 }",
                "a `delta` below 1",
            ),
            ("noise: { scale: 1, decimals: 10 }", "from 0 to 9"),
        ] {
            let problems = read(policy).err().unwrap_or_default();
            assert!(problems.iter().any(|one| one.contains(expected)), "{policy}: {problems:?}");
        }
    }
}
