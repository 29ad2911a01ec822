// Can this machine take an image? Looks at files by name and at its own vDSO; changes nothing.
#pragma once

#include "image/finding.h"
#include "image/image.h"

namespace relive::image {

void check_machine(const Image& image, Findings& findings);

}  // namespace relive::image
