// The options of sgr_loss and sgr_residual behind a C interface.
#pragma once

#include "launch.h"
#include "sgr_loss/row_math.h"

struct Settings {
  int normalize, reduction;
  double floor, eps;
  const double* floor_pointer;
};

static Options options_of(const Matrix& in, const Settings& settings) {
  const double scale = reduction_scale(settings.reduction, in.rows, in.cols);
  return {settings.normalize != 0, scale, {settings.floor, settings.floor_pointer}, settings.eps};
}
