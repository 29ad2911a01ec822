// How an object is named to people.
#pragma once

#include <string>

namespace relive::model {

struct Words {
  std::string kind;    // in a column: "file", "pipe", "eventfd"
  std::string detail;  // in the column beside it: "/tmp/x, at 5", "count 7"
  std::string phrase;  // in a sentence, "descriptor 9 (pipe, read end): ..."; empty: the kind alone
};

}  // namespace relive::model
