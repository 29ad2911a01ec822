#include <fmt/format.h>

#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/graphviz.hpp>
#include <sstream>

#include "diff/tree.h"

namespace relive::diff {

std::string dot(const TreePlan& plan) {
  using Graph = boost::adjacency_list<boost::vecS, boost::vecS, boost::bidirectionalS>;
  Graph graph(plan.before.begin(), plan.before.end(), plan.stages.size());
  std::ostringstream out;
  boost::write_graphviz(out, graph, boost::make_label_writer(plan.stages.data()));
  return std::move(out).str();
}

}  // namespace relive::diff
