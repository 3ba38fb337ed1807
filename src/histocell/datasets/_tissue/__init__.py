"""The parts that draw a synthetic section: fields, anatomy, cells, expression, shapes, rendering."""
