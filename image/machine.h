// Can this machine take an image? Changes nothing.
#pragma once

#include "image/finding.h"
#include "image/image.h"

namespace relive::image {

// Whatever the image is applied to: looks at the machine's vDSO.
void check_machine(const Image& image, Findings& findings);
// Are the files that have a name there, and as they were? A task that still has them open needs none.
void check_named_files(const Image& image, Findings& findings);

}  // namespace relive::image
