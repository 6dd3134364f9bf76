//! Tiles copied between memory, of any element type and in any steps, and a buffer.
//!
//! A tile comes in rectangles whose elements lie in equal steps on both sides. Lines of a rectangle run along memory:
//! where the buffer runs along with them they are converted as a whole, and where it runs across, four lines at a time
//! are transposed in registers.

use super::memory::{Memory, MemoryMut};
use crate::array::{Tiles, View};
use crate::num::{Float, with_element};
use std::slice::Chunks;

/// See [`View::with_reader`].
pub(super) type ElementReader<'m, T> = &'m dyn Fn(isize, isize, &mut [T]);

/// See [`Tiles::with_writer`].
pub(super) type ElementWriter<'m, T> = &'m dyn Fn(isize, isize, &[T]);

impl View<'_> {
    /// Calls `f` with what converts elements of memory, as many as a slice has: `(byte offset, byte step, slice)`. All that
    /// depends on their type is in there.
    #[inline(always)]
    pub(super) fn with_reader<T: Float>(&self, f: impl FnOnce(ElementReader<'_, T>)) {
        let reader: ElementReader<'_, T> = with_element!(self.dtype(), E => {
            let memory = self.memory::<E>().expect("its own type");
            &move |offset, step, to| memory.read(offset, step, to)
        });
        f(reader);
    }
}

impl Tiles<'_, '_> {
    /// The reverse of [`View::with_reader`].
    #[inline(always)]
    pub(super) fn with_writer<T: Float>(self, f: impl FnOnce(ElementWriter<'_, T>)) {
        let writer: ElementWriter<'_, T> = with_element!(self.dtype(), E => {
            let memory = self.memory::<E>().expect("its own type");
            &move |offset, step, from| memory.write(offset, step, from)
        });
        f(writer);
    }
}

/// Lines that are transposed together.
const LINES: usize = 4;

/// Elements of each of them that are converted at once.
const PIECE: usize = 64;

/// Elements of a line that neither side has in a run, before the next line has its turn, where each has a cache line of
/// its own: no more cache lines of one set than a cache has ways.
const FEW_APART: usize = 8;

/// Bytes from an element to the next up to which several share a cache line.
const CLOSE: usize = 16;

/// Where the elements of a tile stand in a buffer.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// The step from a row to the next of its group.
    pub row: usize,
    /// The step from a column to the next.
    pub col: usize,
    /// Rows of a group; the next group stands behind all columns of this one.
    pub group: usize,
    /// The step from a group to the next.
    group_step: usize,
}

impl Places {
    /// Row by row.
    pub fn rows(rows: usize, cols: usize) -> Self {
        Places { row: cols, col: 1, group: rows, group_step: 0 }
    }

    /// `lanes` rows at a time side by side.
    pub fn lanes(lanes: usize, cols: usize) -> Self {
        Places { row: 1, col: lanes, group: lanes, group_step: lanes * cols }
    }

    #[inline(always)]
    pub fn of(&self, row: usize, col: usize) -> usize {
        row / self.group * self.group_step + row % self.group * self.row + col * self.col
    }
}

/// One direction of a rectangle.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub len: usize,
    /// Bytes from an element to the next.
    pub memory: isize,
    /// Places from an element to the next.
    pub buffer: usize,
}

/// Elements in equal steps down and across.
#[derive(Clone, Copy)]
pub(super) struct Rectangle {
    /// Where the first stands in memory, in bytes.
    pub offset: isize,
    /// Where it stands in the buffer.
    pub place: usize,
    pub rows: Side,
    pub cols: Side,
}

/// A rectangle as lines that run along memory.
struct Lines {
    offset: isize,
    place: usize,
    /// From a line to the next.
    down: Side,
    /// Along a line.
    along: Side,
}

/// How lines are copied.
enum Way {
    /// Run by run.
    Runs,
    /// Four lines at a time: the buffer runs across them.
    Across,
    /// Element by element.
    Single,
}

impl Rectangle {
    #[inline(always)]
    fn lines(self, unit: usize) -> (Lines, Way) {
        let Rectangle { offset, place, rows, cols } = self;
        let size = |side: Side| side.memory.unsigned_abs();
        let by_rows = cols.len == 1 || (rows.memory != 0 && size(rows) < size(cols));
        let (mut down, mut along) =
            if by_rows && rows.len > 1 { (cols, rows) } else { (rows, cols) };
        let unit = unit as isize;
        if along.memory == unit
            && along.buffer == 1
            && down.buffer == along.len
            && down.memory == unit * along.len as isize
        {
            along.len *= down.len;
            down.len = 1;
        }
        let way = match (along.memory == unit, along.buffer, down.buffer) {
            (true, 1, _) => Way::Runs,
            (true, _, 1) if down.len >= LINES && along.len >= LINES => Way::Across,
            _ => Way::Single,
        };
        (Lines { offset, place, down, along }, way)
    }
}

impl Lines {
    /// Where a line begins in memory and in the buffer.
    #[inline(always)]
    fn start(&self, line: usize) -> (isize, usize) {
        let Lines { offset, place, down, .. } = self;
        (offset + line as isize * down.memory, place + line * down.buffer)
    }

    /// Calls `f(offset, place, length)` for each piece of a line, up to [`PIECE`] elements, the same piece of all lines before
    /// the next.
    #[inline(always)]
    fn pieces(&self, mut f: impl FnMut(isize, usize, usize)) {
        let Side { len, memory, buffer } = self.along;
        let is_close = memory.unsigned_abs() <= CLOSE;
        let few = if self.down.len == 1 || is_close { PIECE } else { FEW_APART };
        for first in (0..len).step_by(few) {
            for line in 0..self.down.len {
                let (offset, place) = self.start(line);
                f(offset + first as isize * memory, place + first * buffer, few.min(len - first));
            }
        }
    }

    /// Calls `f(offsets, place, length)` for [`LINES`] lines at a time and a part of each. The last lines and the last part
    /// may hold some of those before.
    #[inline(always)]
    fn together(&self, mut f: impl FnMut([isize; LINES], usize, usize)) {
        let Side { len, memory, buffer } = self.along;
        for line in blocks(self.down.len) {
            for first in (0..len).step_by(PIECE).map(|first| first.min(len - LINES)) {
                let starts: [_; LINES] = std::array::from_fn(|i| self.start(line + i).0);
                let offsets = starts.map(|start| start + first as isize * memory);
                f(offsets, self.start(line).1 + first * buffer, PIECE.min(len - first));
            }
        }
    }
}

/// Copies a rectangle of elements of `unit` bytes into a buffer. `same` is their memory if they are of the buffer's type.
#[inline(always)]
pub(super) fn read<T: Float>(
    reader: ElementReader<'_, T>,
    same: Option<Memory<'_, T>>,
    unit: usize,
    rectangle: Rectangle,
    buffer: &mut [T],
) {
    let (lines, way) = rectangle.lines(unit);
    let Lines { down, along, .. } = lines;
    match way {
        Way::Runs => (0..down.len).for_each(|line| {
            let (offset, place) = lines.start(line);
            reader(offset, along.memory, &mut buffer[place..][..along.len]);
        }),
        Way::Across => {
            let mut rooms = [[T::ZERO; PIECE]; LINES];
            lines.together(|offsets, place, len| {
                let mut parts = [&[][..]; LINES];
                for ((part, room), &offset) in parts.iter_mut().zip(&mut rooms).zip(&offsets) {
                    *part = same.map_or_else(
                        || {
                            reader(offset, along.memory, &mut room[..len]);
                            &room[..len]
                        },
                        |same| same.run(offset, len),
                    );
                }
                let [a, b, c, d] = parts.map(|part| part.as_chunks().0);
                let mut rows = buffer[place..].chunks_mut(along.buffer);
                for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
                    for (x, row) in T::transpose([*a, *b, *c, *d]).iter().zip(&mut rows) {
                        row[..LINES].copy_from_slice(x);
                    }
                }
                if !len.is_multiple_of(LINES) {
                    let first = len - LINES;
                    let rows = buffer[place + first * along.buffer..].chunks_mut(along.buffer);
                    let last = T::transpose(parts.map(|part| block(&part[first..])));
                    rows.zip(last).for_each(|(row, x)| row[..LINES].copy_from_slice(&x));
                }
            });
        }
        Way::Single => {
            let mut room = [T::ZERO; PIECE];
            lines.pieces(|offset, place, len| {
                if along.buffer == 1 {
                    return reader(offset, along.memory, &mut buffer[place..][..len]);
                }
                reader(offset, along.memory, &mut room[..len]);
                let places = buffer[place..].iter_mut().step_by(along.buffer);
                places.zip(&room[..len]).for_each(|(place, x)| *place = *x);
            });
        }
    }
}

/// The reverse of [`read`].
#[inline(always)]
pub(super) fn write<T: Float>(
    writer: ElementWriter<'_, T>,
    same: Option<MemoryMut<'_, T>>,
    unit: usize,
    rectangle: Rectangle,
    buffer: &[T],
) {
    let (lines, way) = rectangle.lines(unit);
    let Lines { down, along, .. } = lines;
    let transpose = |parts: &mut [&mut [T]; LINES], place: usize, len: usize| {
        let rows_from = |i: usize| buffer[place + i * along.buffer..].chunks(along.buffer);
        let mut rows = rows_from(0);
        let [a, b, c, d] = parts.each_mut().map(|part| part.as_chunks_mut().0);
        for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
            [*a, *b, *c, *d] = T::transpose(next_block(&mut rows));
        }
        if !len.is_multiple_of(LINES) {
            let first = len - LINES;
            let last = T::transpose(next_block(&mut rows_from(first)));
            for (part, line) in parts.iter_mut().zip(last) {
                part[first..].copy_from_slice(&line);
            }
        }
    };
    match way {
        Way::Runs => (0..down.len).for_each(|line| {
            let (offset, place) = lines.start(line);
            writer(offset, along.memory, &buffer[place..][..along.len]);
        }),
        Way::Across => {
            let mut rooms = [[T::ZERO; PIECE]; LINES];
            lines.together(|offsets, place, len| {
                if let Some(same) = same {
                    return transpose(&mut offsets.map(|at| same.run(at, len)), place, len);
                }
                transpose(&mut rooms.each_mut().map(|room| &mut room[..len]), place, len);
                for (room, &offset) in rooms.iter().zip(&offsets) {
                    writer(offset, along.memory, &room[..len]);
                }
            });
        }
        Way::Single => {
            let mut room = [T::ZERO; PIECE];
            lines.pieces(|offset, place, len| {
                if along.buffer == 1 {
                    return writer(offset, along.memory, &buffer[place..][..len]);
                }
                let places = buffer[place..].iter().step_by(along.buffer);
                room[..len].iter_mut().zip(places).for_each(|(x, place)| *x = *place);
                writer(offset, along.memory, &room[..len]);
            });
        }
    }
}

/// Where blocks of [`LINES`] elements of `len` begin. The last may hold some of those before.
#[inline(always)]
fn blocks(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(LINES).map(move |i| i.min(len - LINES))
}

/// The first elements of each of the next rows.
#[inline(always)]
fn next_block<T: Float>(rows: &mut Chunks<'_, T>) -> [[T; LINES]; LINES] {
    [(); LINES].map(|()| block(rows.next().expect("a row for each element of a line")))
}

/// The first elements.
#[inline(always)]
fn block<T: Float>(x: &[T]) -> [T; LINES] {
    std::array::from_fn(|i| x[..LINES][i])
}
