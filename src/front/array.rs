//! Arrays of a known element type: owned ones, and views of slices whose shape and strides are checked.

use crate::array::{View, ViewMut, elements};
use crate::error::{Error, Kind, Result, Tuple};
use crate::memory;
use crate::num::Element;
use std::marker::PhantomData;

/// An array that owns its elements, in C order.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<E> {
    data: Vec<E>,
    shape: Vec<usize>,
}

impl<E: Element> Array<E> {
    /// The elements of `data`, in C order, under a shape.
    ///
    /// # Errors
    /// If the shape is not one of `data.len()` elements.
    pub fn new(data: Vec<E>, shape: &[usize]) -> Result<Self> {
        check_size(shape, data.len())?;
        Ok(Array { data, shape: memory::copied(shape)? })
    }

    /// An array of zeros, to be written over.
    pub(super) fn zeros(shape: &[usize]) -> Result<Self> {
        let data = memory::filled(E::of(0.0), elements(shape))?;
        Ok(Array { data, shape: memory::copied(shape)? })
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements in C order.
    pub fn data(&self) -> &[E] {
        &self.data
    }

    /// The elements in C order, without their shape.
    pub fn into_data(self) -> Vec<E> {
        self.data
    }

    /// The element of an array that has one alone, as a total of a loss has.
    pub fn item(&self) -> Option<E> {
        if let [x] = self.data[..] { Some(x) } else { None }
    }

    /// A view to write.
    pub fn view_mut(&mut self) -> ArrayViewMut<'_, E> {
        ArrayViewMut::of(ViewMut::from_slice(&mut self.data, &self.shape))
    }
}

/// A strided view of a slice, to read.
#[derive(Clone, Debug)]
pub struct ArrayView<'a, E> {
    view: View<'a>,
    element: PhantomData<&'a E>,
}

impl<'a, E: Element> ArrayView<'a, E> {
    /// All elements of a slice, in C order, under a shape.
    ///
    /// # Errors
    /// If the shape is not one of `data.len()` elements.
    pub fn new(data: &'a [E], shape: &[usize]) -> Result<Self> {
        check_size(shape, data.len())?;
        Ok(ArrayView { view: View::from_slice(data, shape), element: PhantomData })
    }

    /// Some elements of a slice: the first of them, and the step along each axis, in elements. Steps may be negative, and
    /// 0 repeats an element.
    ///
    /// # Errors
    /// If the view leaves the slice, or has not one stride for each axis.
    pub fn strided(
        data: &'a [E],
        first: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<Self> {
        let view =
            View::strided(data, first, shape, strides).ok_or_else(|| leaves(shape, strides))?;
        Ok(ArrayView { view, element: PhantomData })
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        self.view.shape()
    }

    /// The view without its type.
    pub(super) fn erased(&self) -> View<'a> {
        self.view.clone()
    }
}

/// A strided view of a slice, to write. All its elements are distinct.
#[derive(Debug)]
pub struct ArrayViewMut<'a, E> {
    view: ViewMut<'a>,
    element: PhantomData<&'a mut E>,
}

impl<'a, E: Element> ArrayViewMut<'a, E> {
    fn of(view: ViewMut<'a>) -> Self {
        ArrayViewMut { view, element: PhantomData }
    }

    /// All elements of a slice, in C order, under a shape.
    ///
    /// # Errors
    /// If the shape is not one of `data.len()` elements.
    pub fn new(data: &'a mut [E], shape: &[usize]) -> Result<Self> {
        check_size(shape, data.len())?;
        Ok(Self::of(ViewMut::from_slice(data, shape)))
    }

    /// As [`ArrayView::strided`].
    ///
    /// # Errors
    /// Also if two elements of the view may be one.
    pub fn strided(
        data: &'a mut [E],
        first: usize,
        shape: &[usize],
        strides: &[isize],
    ) -> Result<Self> {
        let view = ViewMut::strided(data, first, shape, strides);
        view.map(Self::of).ok_or_else(|| leaves(shape, strides))
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        self.view.shape()
    }

    /// The view without its type.
    pub(super) fn erased(self) -> ViewMut<'a> {
        self.view
    }
}

/// What a call takes for an array: views, arrays, and slices and vectors for arrays of one dimension.
pub trait AsArray {
    /// The type of the elements.
    type Element: Element;

    /// A view of all elements.
    fn as_array(&self) -> ArrayView<'_, Self::Element>;
}

impl<E: Element> AsArray for Array<E> {
    type Element = E;
    fn as_array(&self) -> ArrayView<'_, E> {
        ArrayView { view: View::from_slice(&self.data, &self.shape), element: PhantomData }
    }
}

impl<E: Element> AsArray for ArrayView<'_, E> {
    type Element = E;
    fn as_array(&self) -> ArrayView<'_, E> {
        self.clone()
    }
}

impl<E: Element> AsArray for [E] {
    type Element = E;
    fn as_array(&self) -> ArrayView<'_, E> {
        ArrayView { view: View::from_slice(self, &[self.len()]), element: PhantomData }
    }
}

impl<E: Element> AsArray for Vec<E> {
    type Element = E;
    fn as_array(&self) -> ArrayView<'_, E> {
        <[E] as AsArray>::as_array(self)
    }
}

impl<E: Element, const N: usize> AsArray for [E; N] {
    type Element = E;
    fn as_array(&self) -> ArrayView<'_, E> {
        <[E] as AsArray>::as_array(self)
    }
}

impl<E: Element, const N: usize, const M: usize> AsArray for [[E; M]; N] {
    type Element = E;
    fn as_array(&self) -> ArrayView<'_, E> {
        let view = View::from_slice(self.as_flattened(), &[N, M]);
        ArrayView { view, element: PhantomData }
    }
}

fn wrong(detail: impl Into<String>) -> Error {
    Error::new(Kind::Shape, "array", detail)
}

fn check_size(shape: &[usize], len: usize) -> Result<()> {
    if elements(shape) == len {
        return Ok(());
    }
    let detail = format!("expected a shape of {len} elements, got shape {}", Tuple(shape));
    Err(wrong(detail))
}

fn leaves(shape: &[usize], strides: &[isize]) -> Error {
    let [shape, strides] = [Tuple(shape).to_string(), Tuple(strides).to_string()];
    let expected =
        "expected a stride for each axis, elements of the slice, and distinct ones to write";
    wrong(format!("{expected}, got shape {shape} and strides {strides}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_views_are_errors() {
        let mut data = [1.0_f32; 24];
        assert!(ArrayView::new(&data, &[4, 5]).is_err());
        assert!(ArrayView::new(&data, &[usize::MAX, 2]).is_err());
        assert!(ArrayView::strided(&data, 0, &[2, 2], &[24, 0]).is_err());
        assert!(ArrayViewMut::strided(&mut data, 0, &[2], &[0]).is_err());
        let error = Array::new(vec![0_u8; 3], &[2]).unwrap_err();
        assert_eq!(error.to_string(), "array: expected a shape of 3 elements, got shape (2,)");
    }
}
