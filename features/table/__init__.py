"""Features of measured tables: values, products and ratios, blocks of GPU kernels, and history in other groups."""
