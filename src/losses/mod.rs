//! The losses, by the shape of their work. Each family's module names its losses; together they are the registry.

/// The modules of a family's losses, and their rows of the registry in this order.
macro_rules! family {
    [$($loss:ident),* $(,)?] => {
        $(pub mod $loss;)*

        /// The losses as types.
        pub mod typed {
            $(pub use super::$loss::typed::*;)*
        }

        /// What the types say of themselves.
        #[cfg(test)]
        pub(crate) const DECLARED: &[(&str, &[&str], &[&str])] =
            &[$($loss::typed::DECLARED),*];

        /// The rows of the registry.
        #[cfg(any(test, feature = "python"))]
        pub static LOSSES: &[$crate::registry::Spec] = &[$($loss::SPEC),*];
    };
}
use family;

/// A loop that is written out, for what the compiler does only where no index varies: it keeps an array of sums in registers,
/// and computes of several derivatives the one that is asked for.
macro_rules! unrolled {
    ($k:ident in [$($at:literal),*] $body:block) => { $({ let $k = $at; $body })* };
}

pub mod elementwise;
pub mod pairwise;
pub mod rowwise;
pub mod sequence;

#[cfg(any(test, feature = "python"))]
use crate::registry::Spec;

/// Every loss.
#[cfg(any(test, feature = "python"))]
pub fn registry() -> impl Iterator<Item = &'static Spec> {
    elementwise::LOSSES
        .iter()
        .chain(rowwise::LOSSES)
        .chain(pairwise::LOSSES)
        .chain(sequence::LOSSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_say_what_the_registry_says() {
        let declared = [elementwise::DECLARED, rowwise::DECLARED, pairwise::DECLARED];
        let mut declared = declared.concat();
        declared.push(sequence::typed::DECLARED);
        let specs: Vec<_> = registry().collect();
        assert_eq!(specs.len(), declared.len());
        for (spec, (name, inputs, params)) in specs.iter().zip(declared) {
            let required: Vec<_> =
                spec.inputs.iter().filter(|i| i.required).map(|i| i.name).collect();
            let own: Vec<_> = spec.params.iter().map(|param| param.name).collect();
            assert_eq!((spec.name, &required[..], &own[..]), (name, inputs, params));
        }
    }
}
