//! XLA's typed foreign-function interface, as far as a handler needs it: the structures of `xla/ffi/api/c_api.h`.
//!
//! Later versions of the header append to structures and leave what is there as it is, so that the starts of them that
//! stand here are right for all versions since 0.1. A frame and all that it leads to are XLA's and stay as they are
//! during a call; its references are never null, and what may be null is an `Option` or [`Lent`].

use crate::array::{Shape, Strides, View, ViewMut, c_strides, elements, short};
use crate::num::DType;
use std::cell::Cell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::{ptr, slice};

/// The newest version of the interface that this was tried with; there is one major version, 0.
const NEWEST_MINOR: c_int = 3;
/// The kind of the extension by which XLA asks for a handler's version instead of calling it.
const METADATA: c_int = 1;
/// `XLA_FFI_Error_Code_INVALID_ARGUMENT`.
const INVALID_ARGUMENT: c_int = 3;

/// An error as XLA keeps it.
#[repr(C)]
pub struct Failure {
    opaque: [u8; 0],
}

/// The first of several things that XLA lends for a call, null where there are none.
#[repr(transparent)]
struct Lent<'a, T>(*const T, PhantomData<&'a [T]>);

impl<'a, T> Lent<'a, T> {
    /// All of them; their number stands in the field beside this one.
    fn slice(&self, len: usize) -> &'a [T] {
        if len == 0 {
            return &[];
        }
        // SAFETY: XLA lends that many for `'a`.
        unsafe { slice::from_raw_parts(self.0, len) }
    }
}

#[repr(C)]
struct Version {
    struct_size: usize,
    extension: *const c_void,
    major: Cell<c_int>,
    minor: Cell<c_int>,
}

#[repr(C)]
struct Metadata {
    struct_size: usize,
    version: Version,
    traits: Cell<u32>,
}

#[repr(C)]
struct Extension<'a> {
    struct_size: usize,
    kind: c_int,
    next: Option<&'a Extension<'a>>,
}

#[repr(C)]
struct MetadataExtension<'a> {
    base: Extension<'a>,
    metadata: &'a Metadata,
}

#[repr(C)]
struct ErrorCreate {
    struct_size: usize,
    extension: *const c_void,
    message: *const c_char,
    code: c_int,
}

#[repr(C)]
struct Api {
    struct_size: usize,
    extension: *const c_void,
    version: Version,
    internal: *const c_void,
    error_create: extern "C" fn(&ErrorCreate) -> *mut Failure,
}

/// The operands of a call, or its results.
#[repr(C)]
pub struct CallBuffers<'a> {
    struct_size: usize,
    extension: *const c_void,
    len: i64,
    kinds: *const c_int,
    items: Lent<'a, &'a Buffer<'a>>,
}

impl<'a> CallBuffers<'a> {
    /// One after another.
    pub fn get(&self) -> &'a [&'a Buffer<'a>] {
        self.items.slice(self.len as usize)
    }
}

/// An array in C order.
#[repr(C)]
pub struct Buffer<'a> {
    struct_size: usize,
    extension: *const c_void,
    dtype: c_int,
    data: *mut u8,
    rank: i64,
    dims: Lent<'a, i64>,
}

impl<'a> Buffer<'a> {
    /// The element type, if the library knows it.
    pub fn dtype(&self) -> Option<DType> {
        Some(match self.dtype {
            1 => DType::Bool,
            2 => DType::I8,
            3 => DType::I16,
            4 => DType::I32,
            5 => DType::I64,
            6 => DType::U8,
            7 => DType::U16,
            8 => DType::U32,
            9 => DType::U64,
            10 => DType::F16,
            11 => DType::F32,
            12 => DType::F64,
            16 => DType::BF16,
            _ => return None,
        })
    }

    /// The shape.
    pub fn shape(&self) -> Shape {
        self.dims.slice(self.rank as usize).iter().map(|&d| d as usize).collect()
    }

    /// The elements from a position on as an array of a shape, to read; none if there are not so many.
    pub fn view(&self, start: usize, shape: &[usize]) -> Option<View<'a>> {
        let (data, dtype, strides) = self.part(start, shape)?;
        // SAFETY: XLA's buffers are dense, initialised, aligned for their type and lent for `'a`.
        Some(unsafe { View::from_raw_parts(data, dtype, short(shape), strides) })
    }

    /// The same, to write; for results, of which no two parts may be used at once.
    pub fn view_mut(&self, start: usize, shape: &[usize]) -> Option<ViewMut<'a>> {
        let (data, dtype, strides) = self.part(start, shape)?;
        // SAFETY: as above, and XLA gives every result memory of its own, which nobody else looks at during the call.
        Some(unsafe { ViewMut::from_raw_parts(data, dtype, short(shape), strides) })
    }

    fn part(&self, start: usize, shape: &[usize]) -> Option<(*mut u8, DType, Strides)> {
        let dtype = self.dtype()?;
        let end = start.checked_add(elements(shape))?;
        if end > elements(&self.shape()) {
            return None;
        }
        // An array without elements has no memory.
        let data = if self.data.is_null() { ptr::dangling_mut::<f64>().cast() } else { self.data };
        let data = data.wrapping_add(start * dtype.size());
        Some((data, dtype, c_strides(shape, dtype.size() as isize)))
    }
}

#[repr(C)]
struct Text<'a> {
    bytes: Lent<'a, u8>,
    len: usize,
}

#[repr(C)]
struct Attributes<'a> {
    struct_size: usize,
    extension: *const c_void,
    len: i64,
    kinds: *const c_int,
    names: *const c_void,
    texts: Lent<'a, &'a Text<'a>>,
}

/// A call of a handler that was registered for execution.
#[repr(C)]
pub struct XlaFrame<'a> {
    struct_size: usize,
    extension: Option<&'a Extension<'a>>,
    api: Option<&'a Api>,
    context: *const c_void,
    stage: c_int,
    /// The arrays to read.
    pub operands: CallBuffers<'a>,
    /// The arrays to write.
    pub results: CallBuffers<'a>,
    attributes: Attributes<'a>,
}

impl<'a> XlaFrame<'a> {
    /// Tells XLA the version of the interface if that is all it wants to know.
    pub fn is_answered(&self) -> bool {
        let mut next = self.extension;
        while let Some(extension) = next {
            if extension.kind == METADATA {
                // SAFETY: an extension of this kind is the start of such a structure.
                let MetadataExtension { metadata, .. } =
                    unsafe { &*ptr::from_ref(extension).cast::<MetadataExtension<'_>>() };
                // Before 0.2 there is no table of functions yet, and 0.1 is the only version that is taken.
                let minor = self.api.map_or(1, |api| api.version.minor.get().min(NEWEST_MINOR));
                metadata.version.major.set(0);
                metadata.version.minor.set(minor);
                metadata.traits.set(0);
                return true;
            }
            next = extension.next;
        }
        false
    }

    /// The call's one attribute, which is text.
    pub fn text(&self) -> &'a [u8] {
        let texts = self.attributes.texts.slice(self.attributes.len as usize);
        texts.first().map_or(&[], |text| text.bytes.slice(text.len))
    }

    /// An error with a message.
    pub fn failure(&self, message: &str) -> *mut Failure {
        let message = CString::new(message.replace('\0', "")).unwrap_or_default();
        let error = ErrorCreate {
            struct_size: size_of::<ErrorCreate>(),
            extension: ptr::null(),
            message: message.as_ptr(),
            code: INVALID_ARGUMENT,
        };
        self.api.map_or(ptr::null_mut(), |api| (api.error_create)(&error))
    }
}
