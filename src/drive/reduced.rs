//! Weights and reduction of losses that were computed elsewhere, by the elementwise driver.

use crate::array::{View, ViewMut, elements};
use crate::drive::Axes;
use crate::drive::block_kernel::Outputs;
use crate::drive::blocks;
use crate::drive::blocks::{BlockRun, Identity};
use crate::drive::operand::Argument;
use crate::drive::scale::Scale;
use crate::drive::weight::Weighting;
use crate::error::Result;
use crate::math::Real;
use crate::memory;
use crate::simd::Level;

/// From E, one number for each row, to the result, by the elementwise driver.
pub struct Reduced<'a> {
    /// E's axes.
    pub axes: &'a Axes,
    /// Its weights.
    pub weighting: &'a Weighting<'a>,
    /// The instruction set.
    pub level: Level,
}

impl Reduced<'_> {
    /// The derivative of the result with respect to each element of E.
    pub fn scale(&self) -> Result<Scale> {
        let shape = self.axes.batch_first();
        if let Some(scale) = self.weighting.uniform_scale(&shape)? {
            return Ok(Scale::All(scale));
        }
        let mut scale = memory::filled(0.0, elements(&shape))?;
        self.scales(ViewMut::from_slice(&mut scale, &shape))?;
        Ok(Scale::Each(scale))
    }

    /// The same for every element of E, written to a view of its shape with the batch axis first.
    pub fn scales(&self, scales: ViewMut<'_>) -> Result<()> {
        let zero = [0.0];
        let input = View::from_slice(&zero, &[]).broadcast_to(scales.shape()).map(Argument::from);
        let mut outputs = Outputs::default();
        outputs.grads[0] = Some(scales);
        self.drive::<f64>(input.as_slice(), &outputs)
    }

    /// The value, from E with the batch axis first.
    pub fn value<T: Real>(&self, unreduced: &[T], value: ViewMut<'_>) -> Result<()> {
        let shape = self.axes.batch_first();
        let inputs = [View::from_slice(unreduced, &shape).into()];
        let outputs = Outputs {
            value: self.axes.value(value, self.weighting.reduction),
            ..Outputs::default()
        };
        self.drive::<T>(&inputs, &outputs)
    }

    fn drive<T: Real>(&self, inputs: &[Argument<'_>], outputs: &Outputs<'_>) -> Result<()> {
        let Reduced { axes, weighting, level } = *self;
        blocks::drive::<T>(&BlockRun {
            kernel: &Identity,
            level,
            order: axes.order(),
            inputs,
            outputs,
            weighting,
        })
    }
}
