//! Figures of one run, their medians and their ratios.

/// One number of one run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Figure {
    /// `bulk_up_1`, `bulk_up_1_cpu`
    pub(super) name: String,
    /// `Gbit/s`
    pub(super) unit: &'static str,
    pub(super) value: f64,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value }
    }
}

/// Median, least and most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of the runs that have a value; none if none has.
    pub(super) fn of(runs: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let mut values: Vec<_> = runs.into_iter().flatten().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Self { median: f64::midpoint(low, high), min, max })
    }

    /// Of one side's runs over another's, run by run: what the machine did in a run it did to both.
    pub(super) fn of_ratios(runs: &[Option<f64>], reference: &[Option<f64>]) -> Option<Self> {
        let ratio = |(value, reference): (&Option<f64>, &Option<f64>)| {
            let ratio = (*value)? / (*reference)?;
            // Nothing against nothing, such as no error against none, says nothing.
            ratio.is_finite().then_some(ratio)
        };
        Self::of(runs.iter().zip(reference).map(ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_the_extremes_of_what_is_there() {
        let spread = Spread::of([Some(3.0), None, Some(1.0), Some(2.0)]);
        assert_eq!(spread, Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([Some(1.0), Some(4.0)]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of([None]), None);
    }

    #[test]
    fn a_ratio_compares_the_sides_of_one_run() {
        // The second run is on a machine of half the speed; the third has no reference.
        let ratio = Spread::of_ratios(&[Some(3.0), Some(1.5), Some(9.0)], &[Some(2.0), Some(1.0), None]);
        assert_eq!(ratio, Some(Spread { median: 1.5, min: 1.5, max: 1.5 }));
        assert_eq!(Spread::of_ratios(&[Some(0.0)], &[Some(0.0)]), None);
    }
}
