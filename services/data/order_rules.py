"""Rules of stock, orders and flash sales: what there is, and who has it."""

from __future__ import annotations

from typing import Final

from services.data.rules import Rule

# As services/business/order_states.py has them; a test compares.
ALLOWED_MOVES: Final = """
    ('nothing', 'placed'), ('placed', 'authorized'), ('placed', 'paid'), ('placed', 'cancelled'),
    ('placed', 'expired'), ('authorized', 'paid'), ('authorized', 'cancelled'), ('paid', 'refunded')
"""

ORDER_RULES: Final = (
    Rule(
        "stock",
        "what came in is available, held or sold",
        "select count(*) from stock",
        """
        select variant_id, received, available, held, sold from stock
        where available + held + sold <> received or least(available, held, sold) < 0
        """,
    ),
    Rule(
        "stock",
        "what came in is the sum of the journal",
        "select count(*) from stock_journal",
        """
        select s.variant_id, s.received, coalesce(j.quantity, 0) as journal
        from stock s left join (
            select variant_id, sum(quantity) as quantity from stock_journal group by variant_id
        ) j using (variant_id)
        where s.received <> coalesce(j.quantity, 0)
        """,
    ),
    Rule(
        "stock",
        "what is held is held by orders",
        "select count(*) from stock_holds where state in ('held', 'paying')",
        """
        select s.variant_id, s.held, coalesce(h.quantity, 0) as by_orders
        from stock s left join (
            select variant_id, sum(quantity) as quantity from stock_holds
            where state in ('held', 'paying') group by variant_id
        ) h using (variant_id)
        where s.held <> coalesce(h.quantity, 0)
        """,
    ),
    Rule(
        "stock",
        "what is sold was sold by orders",
        "select count(*) from stock_holds where state = 'sold'",
        """
        select s.variant_id, s.sold, coalesce(h.quantity, 0) as by_orders
        from stock s left join (
            select variant_id, sum(quantity) as quantity from stock_holds
            where state = 'sold' group by variant_id
        ) h using (variant_id)
        where s.sold <> coalesce(h.quantity, 0)
        """,
    ),
    Rule(
        "orders",
        "the total is the sum of the lines",
        "select count(*) from orders",
        """
        select o.order_id, o.total_minor, sum(l.quantity * l.unit_price_minor) as lines_minor
        from orders o left join order_lines l using (customer_id, order_id)
        group by o.customer_id, o.order_id
        having o.total_minor is distinct from sum(l.quantity * l.unit_price_minor)
        """,
    ),
    Rule(
        "orders",
        "each line has one hold of its quantity, in the state of the order",
        "select count(*) from order_lines",
        """
        select o.order_id, o.state, l.variant_id, l.quantity, h.quantity as held, h.state as hold
        from orders o join order_lines l using (customer_id, order_id)
        left join stock_holds h using (customer_id, order_id, variant_id)
        where h.quantity is distinct from l.quantity
            or h.state <> all (case o.state
                when 'placed' then array['held', 'paying'] when 'expired' then array['expired']
                when 'cancelled' then array['released'] else array['sold'] end)
        """,
    ),
    Rule(
        "orders",
        "the history of an order begins where it was placed, has no gap and ends at its state",
        "select count(*) from order_events",
        """
        select o.order_id, o.state, e.order_event_id, e.was, e.from_state, e.to_state
        from orders o left join (
            select customer_id, order_id, order_event_id, from_state, to_state,
                lag(to_state) over moves as was,
                lead(order_event_id) over moves is null as is_last
            from order_events
            window moves as (partition by customer_id, order_id order by order_event_id)
        ) e using (customer_id, order_id)
        where e.order_event_id is null or e.was is distinct from e.from_state
            or (e.is_last and e.to_state <> o.state)
        """,
    ),
    Rule(
        "orders",
        "an order moves only as orders may",
        "select count(*) from order_events",
        f"""
        select order_id, from_state, to_state, cause from order_events
        where (coalesce(from_state, 'nothing'), to_state) not in ({ALLOWED_MOVES})
        """,  # noqa: S608  # nosec B608 - the list above
    ),
    Rule(
        "orders",
        "a cart is ordered if there is an order of it, with just its lines",
        "select count(*) from carts",
        """
        select c.cart_id, c.state, o.order_id from carts c
        left join orders o using (customer_id, cart_id)
        where (c.state = 'ordered') <> (o.order_id is not null)
            or (o.order_id is not null and exists (
                select from (
                    select variant_id, quantity from cart_lines
                    where customer_id = c.customer_id and cart_id = c.cart_id
                ) put full join (
                    select variant_id, quantity from order_lines
                    where customer_id = o.customer_id and order_id = o.order_id
                ) ordered using (variant_id, quantity)
                where put is null or ordered is null
            ))
        """,
    ),
    Rule(
        "flash sales",
        "what is claimed of a sale is claimed by orders",
        "select count(*) from flash_sales",
        """
        select s.flash_sale_id, s.quantity, s.claimed, coalesce(c.quantity, 0) as by_orders
        from flash_sales s left join (
            select flash_sale_id, sum(quantity) as quantity from flash_sale_claims
            where returned_at is null group by flash_sale_id
        ) c using (flash_sale_id)
        where s.claimed <> coalesce(c.quantity, 0) or s.claimed > s.quantity
        """,
    ),
    Rule(
        "flash sales",
        "no customer has more of a sale than one customer may have",
        "select count(*) from flash_sale_claims",
        """
        select s.flash_sale_id, c.customer_id, s.customer_limit, sum(c.quantity) as claimed
        from flash_sales s join flash_sale_claims c using (flash_sale_id)
        where c.returned_at is null
        group by s.flash_sale_id, c.customer_id having sum(c.quantity) > s.customer_limit
        """,
    ),
    Rule(
        "flash sales",
        "a claim is an order of its units alone, at the price of the sale and while it was open",
        "select count(*) from flash_sale_claims",
        """
        select c.order_id, c.flash_sale_id, c.quantity, c.created_at, l.variant_id, l.quantity
            as ordered, l.unit_price_minor
        from flash_sale_claims c join flash_sales s using (flash_sale_id)
        join orders o using (customer_id, order_id)
        left join order_lines l using (customer_id, order_id)
        where (l.variant_id, l.quantity, l.unit_price_minor, o.currency)
                is distinct from (s.variant_id, c.quantity, s.unit_price_minor, s.currency)
            or c.created_at < s.opens_at or c.created_at >= s.closes_at
        """,
    ),
    Rule(
        "flash sales",
        "units go back to the sale when their order ends unpaid, and not otherwise",
        "select count(*) from flash_sale_claims",
        """
        select c.order_id, o.state, c.flash_sale_id, c.quantity, c.returned_at
        from flash_sale_claims c join orders o using (customer_id, order_id)
        where (c.returned_at is not null) <> (o.state in ('expired', 'cancelled'))
        """,
    ),
)
