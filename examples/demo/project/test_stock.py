import unittest

from stock import OutOfStock, Stock


class StockTest(unittest.TestCase):
    def test_what_was_added_can_be_sold(self) -> None:
        stock = Stock()
        stock.add("rope", 3)
        stock.sell("rope", 2)
        self.assertEqual(stock.count("rope"), 1)

    def test_nothing_is_sold_that_is_not_there(self) -> None:
        with self.assertRaises(OutOfStock):
            Stock().sell("anchor", 1)


if __name__ == "__main__":
    unittest.main()
