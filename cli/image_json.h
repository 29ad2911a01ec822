// Images as JSON text: one object, indented by two.
#pragma once

#include <string>
#include <vector>

#include "image/finding.h"
#include "image/image.h"

namespace relive::cli {

std::string check_json(const std::string& path, const image::Image& image, const image::Findings& findings,
                       int exit_code);
std::string image_json(const std::string& path, const image::Image& image, const image::Findings& findings);

}  // namespace relive::cli
