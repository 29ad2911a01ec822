// Reads an image directory, and checks it.
//
// Images are untrusted. Everything that is wrong is found at once and named by file and entry; nothing is believed
// because another file says it too. Memory is bounded by image/entries.h: pages and contents of files are not taken in.
#pragma once

#include "image/finding.h"
#include "image/image.h"
#include "image/source.h"

namespace relive::image {

// What could be read, whatever was found. With Findings::any_damage() it is for looking at only.
Image read_image(const ImageSource& source, Findings& findings);

// The same for those who want it whole: damage is an error that names the first findings.
Result<Image> read_whole_image(const ImageSource& source);

}  // namespace relive::image
