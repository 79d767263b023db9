// SPDX-License-Identifier: BSD-2-Clause
//! Settings of a variant.

mod allowed_images;
mod image_names;
